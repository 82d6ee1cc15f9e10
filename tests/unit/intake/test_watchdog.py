from dispatcher.intake.watchdog import Patience, Watchdog

PATIENCE = Patience(stuck_seconds=60.0, n_rebuilds=3, within_seconds=600.0)


def test_the_cause_is_looked_for_when_nothing_came_for_a_minute() -> None:
    dog = Watchdog(PATIENCE, 100.0)

    assert not dog.is_due(159.9)
    assert dog.is_due(160.0)
    dog.progressed(160.0)
    assert not dog.is_due(219.9)


def test_another_look_comes_after_a_quarter_of_the_patience_unless_something_comes_first() -> None:
    dog = Watchdog(PATIENCE, 0.0)

    dog.look_again(60.0)

    assert not dog.is_due(74.9)
    assert dog.is_due(75.0)
    dog.progressed(70.0)
    assert not dog.is_due(75.0)


def test_the_third_cure_within_ten_minutes_is_the_last() -> None:
    dog = Watchdog(PATIENCE, 0.0)

    states = []
    for now in (60.0, 120.0, 180.0):
        dog.rebuilt(now)
        states.append(dog.is_beyond_cure(now))

    assert states == [False, False, True]
    assert dog.is_beyond_cure(659.9)
    assert not dog.is_beyond_cure(660.0), "the first of them is ten minutes ago"


def test_cures_that_lie_far_apart_never_add_up() -> None:
    dog = Watchdog(PATIENCE, 0.0)

    for now in range(0, 10_000, 301):
        dog.rebuilt(float(now))
        assert not dog.is_beyond_cure(float(now))
