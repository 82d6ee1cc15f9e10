import pytest

from dispatcher.cli.supervisor import Backoff


def test_each_death_doubles_the_wait_up_to_ten_seconds() -> None:
    backoff = Backoff()

    assert [backoff.after(1.0) for _ in range(8)] == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


@pytest.mark.parametrize(("lived_seconds", "wait"), [(59.9, 2.0), (60.0, 0.5)])
def test_a_minute_of_life_is_forgiven(lived_seconds: float, wait: float) -> None:
    backoff = Backoff()
    backoff.after(1.0)
    backoff.after(1.0)

    assert backoff.after(lived_seconds) == wait


def test_after_forgiveness_the_waits_double_again() -> None:
    backoff = Backoff()
    for _ in range(6):
        backoff.after(0.1)

    assert [backoff.after(3_600.0), backoff.after(0.1), backoff.after(0.1)] == [0.5, 1.0, 2.0]
