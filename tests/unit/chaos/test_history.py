"""The checker finds every planted violation, and nothing in a clean history."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.history import (
    Arrival,
    Attempt,
    Deafness,
    Endpoint,
    Fault,
    History,
    Limit,
    Rule,
    Sent,
    check,
    worst_excess,
)

LIMIT = Limit(rate=10.0, burst=5, jitter_seconds=0.0)
ALL = Endpoint(1, "host-a", "/all", ("verification.*",))
PICKY = Endpoint(2, "host-b", "/picky", ("verification.started",))
N_EVENTS = 20


def clean() -> History:
    """Return twenty events, one each second; the endpoint /all refuses every fourth once."""
    sent, arrivals, attempts = [], [], []
    for number in range(N_EVENTS):
        event_id, at = f"evt_{number}", 1000.0 + number
        event_type = "verification.started" if number % 5 == 0 else "verification.completed"
        sent.append(Sent(event_id, event_type, is_acknowledged=True))
        for endpoint in (ALL, PICKY):
            if endpoint.wants(event_type):
                delivery = number * 10 + endpoint.endpoint_id
                if number % 4 == 0 and endpoint is ALL:
                    arrivals.append(Arrival(at, "/all", event_id, 1, f"sha-{number}", 503, "valid", "p0"))
                    attempts.append(Attempt(delivery, event_id, 1, 1, "retry", at, at + 2.0))
                    last = 2
                else:
                    last = 1
                start = at + 2.5 * (last - 1)
                arrivals.append(
                    Arrival(start, endpoint.path, event_id, last, f"sha-{number}", 200, "valid", f"p{number % 2}")
                )
                attempts.append(Attempt(delivery, event_id, endpoint.endpoint_id, last, "delivered", start, None))
    bodies = {f"evt_{number}": f"sha-{number}" for number in range(N_EVENTS)}
    return History(sent, (ALL, PICKY), arrivals, attempts, bodies)


def again(history: History, n: int, *, sender: str = "p0") -> History:
    """Return a history in which `n` events that a process had delivered arrive once more, from a process p9."""
    first = [one for one in history.arrivals if one.is_success and one.sender == sender][:n]
    assert len(first) == n
    more = [one._replace(at=one.at + 0.3, sender="p9") for one in first]
    return replace(history, arrivals=[*history.arrivals, *more])


def without_arrival(history: History) -> History:
    return replace(history, arrivals=[one for one in history.arrivals if one.event_id != "evt_3"])


def without_a_trace(history: History) -> History:
    bare = without_arrival(history)
    return replace(bare, attempts=[one for one in bare.attempts if one.event_id != "evt_3"])


def still_open(history: History) -> History:
    return replace(without_a_trace(history), open_deliveries=frozenset({("evt_3", 1)}))


def made_up(history: History) -> History:
    arrival = Arrival(1003.0, "/all", "evt_unknown", 1, "sha", 200, "valid", "p0")
    return replace(history, arrivals=[*history.arrivals, arrival], bodies={**history.bodies, "evt_unknown": "sha"})


def to_one_who_did_not_ask(history: History) -> History:
    arrival = Arrival(1003.0, "/picky", "evt_3", 1, "sha-3", 200, "valid", "p0")
    return replace(history, arrivals=[*history.arrivals, arrival])


def to_nobody(history: History) -> History:
    arrival = Arrival(1003.0, "/elsewhere", "evt_3", 1, "sha-3", 200, "valid", "p0")
    return replace(history, arrivals=[*history.arrivals, arrival])


def of_another_account(history: History) -> History:
    return replace(
        history, sent=[one._replace(account="b") if one.event_id == "evt_3" else one for one in history.sent]
    )


def accepted_twice(history: History) -> History:
    copied = next(one for one in history.attempts if one.event_id == "evt_3")
    return replace(history, attempts=[*history.attempts, copied._replace(delivery_id=999)])


def forged(history: History) -> History:
    return replace(history, arrivals=[history.arrivals[0]._replace(signature="invalid"), *history.arrivals[1:]])


def unchecked(history: History) -> History:
    return replace(history, arrivals=[history.arrivals[0]._replace(signature="unchecked"), *history.arrivals[1:]])


def another_body(history: History) -> History:
    return replace(history, arrivals=[history.arrivals[0]._replace(digest="sha-else"), *history.arrivals[1:]])


def number_left_out(history: History) -> History:
    return replace(history, attempts=[a._replace(number=3) if a.number == 2 else a for a in history.attempts])


def number_given_twice(history: History) -> History:
    failed = next(one for one in history.attempts if one.verdict == "retry")
    return replace(history, attempts=[*history.attempts, failed])


def tried_after_success(history: History) -> History:
    success = next(one for one in history.attempts if one.event_id == "evt_3")
    more = success._replace(number=2, verdict="retry", started_at=success.started_at + 1)
    return replace(history, attempts=[*history.attempts, more])


def too_fast(history: History) -> History:
    # Six at once where five may come.
    more = [
        Arrival(5000.0, "/all", f"evt_{n}", 3, f"sha-{n}", 500, "valid", "p0")
        for n in range(LIMIT.burst.__ceil__() + 1)
    ]
    return replace(history, arrivals=[*history.arrivals, *more])


def too_early(history: History) -> History:
    return replace(
        history,
        attempts=[
            one._replace(started_at=one.started_at - 1.0) if one.number == 2 else one for one in history.attempts
        ],
    )


def sent_by_one_who_was_replaced(history: History) -> History:
    return replace(history, takeovers={"p1": 1010.5})


def sent_twice_by_one_who_was_stopped_in_the_act(history: History) -> History:
    late = [one._replace(signed_at=1000) if one.sender == "p1" else one for one in history.arrivals]
    return replace(history, arrivals=late, takeovers={"p1": 1010.5})


PLANTED: list[tuple[Callable[[History], History], Rule]] = [
    (without_arrival, Rule.LOST),
    (without_a_trace, Rule.LOST),
    (still_open, Rule.OPEN),
    (made_up, Rule.INVENTED),
    (to_one_who_did_not_ask, Rule.NOT_SUBSCRIBED),
    (to_nobody, Rule.NOT_SUBSCRIBED),
    (of_another_account, Rule.OF_ANOTHER),
    (accepted_twice, Rule.TWICE_ACCEPTED),
    (forged, Rule.SIGNATURE),
    (unchecked, Rule.SIGNATURE),
    (another_body, Rule.BODY),
    (number_left_out, Rule.ATTEMPT_GAP),
    (number_given_twice, Rule.ATTEMPT_GAP),
    (tried_after_success, Rule.AFTER_SUCCESS),
    (too_fast, Rule.RATE),
    (sent_by_one_who_was_replaced, Rule.AFTER_TAKEOVER),
    (sent_twice_by_one_who_was_stopped_in_the_act, Rule.AFTER_TAKEOVER),
    (too_early, Rule.TOO_EARLY),
    (lambda history: again(history, 1), Rule.UNEXPLAINED_DUPLICATE),
]


def test_a_clean_history_has_nothing_wrong() -> None:
    findings = check(clean(), LIMIT)

    assert findings.violations == []
    assert (findings.n_events, findings.n_deliveries, findings.n_duplicates, findings.bound) == (20, 24, 0, 0)
    assert findings.worst_excess < 0


@pytest.mark.parametrize(("plant", "rule"), PLANTED)
def test_a_planted_violation_is_found(plant: Callable[[History], History], rule: Rule) -> None:
    assert check(plant(clean()), LIMIT).count(rule) > 0


def test_duplicates_up_to_what_a_kill_had_in_flight_are_allowed_and_one_more_is_not() -> None:
    killed = replace(clean(), faults=[Fault("p0", "kill -9", 1030.0, exposed=3)])

    assert check(again(killed, 3), LIMIT).violations == []
    assert {one.rule for one in check(again(killed, 4), LIMIT).violations} == {Rule.TOO_MANY_DUPLICATES}


@pytest.mark.parametrize(("what", "n_allowed"), [("kill -9", 2), ("SIGSTOP", 0)])
def test_what_comes_of_a_killed_process_after_its_death_was_in_flight(what: str, n_allowed: int) -> None:
    last = sorted(one.at for one in clean().arrivals if one.sender == "p0")[-2]
    killed = replace(clean(), faults=[Fault("p0", what, last - 0.001, exposed=0)])

    assert check(killed, LIMIT).bound == n_allowed
    for n in (1, 2, 3):
        is_allowed = check(again(killed, n), LIMIT).count(Rule.TOO_MANY_DUPLICATES) == 0
        assert is_allowed == (n <= n_allowed)


def test_a_kill_does_not_explain_what_another_process_sent() -> None:
    killed = replace(clean(), faults=[Fault("p0", "kill -9", 1030.0, exposed=3)])

    assert check(again(killed, 1, sender="p1"), LIMIT).count(Rule.UNEXPLAINED_DUPLICATE) == 1


def test_what_a_frozen_process_sends_after_its_successor_counts_against_the_frozen_one() -> None:
    late = next(one for one in clean().arrivals if one.event_id == "evt_3")._replace(at=1040.0, sender="p7")
    history = replace(clean(), arrivals=[*clean().arrivals, late], faults=[Fault("p7", "SIGSTOP", 1002.0, exposed=1)])

    assert check(history, LIMIT).violations == []


def test_one_request_that_was_signed_before_its_process_was_stopped_may_come_when_it_wakes() -> None:
    late = next(one for one in clean().arrivals if one.event_id == "evt_3")
    late = late._replace(at=1040.0, sender="p7", signed_at=1002)
    faults = [Fault("p7", "SIGSTOP", 1002.0, exposed=1)]
    history = replace(clean(), arrivals=[*clean().arrivals, late], faults=faults, takeovers={"p7": 1010.0})

    assert check(history, LIMIT).violations == []


def test_what_nobody_heard_the_answer_of_may_be_sent_again_and_what_was_heard_may_not() -> None:
    twice = again(clean(), 1)
    when = next(one for one in clean().arrivals if one.is_success and one.sender == "p0").at
    deaf = Deafness("p0", "answers dropped", when - 0.5, when + 0.5)

    findings = check(replace(twice, deafness=[deaf]), LIMIT)

    assert findings.violations == []
    assert (findings.n_unheard, findings.n_duplicates) == (1, 0)
    for other in (deaf._replace(sender="p1"), deaf._replace(began=when + 5, ended=when + 6)):
        assert check(replace(twice, deafness=[other]), LIMIT).count(Rule.UNEXPLAINED_DUPLICATE) == 1


def test_who_sends_again_what_nobody_heard_is_not_blamed_for_it_though_it_is_killed_later() -> None:
    twice = again(clean(), 1)
    when = next(one for one in clean().arrivals if one.is_success and one.sender == "p0").at
    deaf = Deafness("p0", "answers held back", when - 0.5, when + 0.5)
    killed = Fault("p9", "kill -9", when + 5, exposed=0)

    findings = check(replace(twice, deafness=[deaf], faults=[killed]), LIMIT)

    assert findings.violations == []
    assert (findings.n_unheard, findings.n_duplicates) == (1, 0)


def test_an_unacknowledged_event_may_be_missing_or_there() -> None:
    history = clean()
    unsure = replace(history, sent=[one._replace(is_acknowledged=False) for one in history.sent])

    assert check(unsure, LIMIT).violations == []
    assert check(without_a_trace(unsure), LIMIT).violations == []


def test_an_event_given_up_for_a_reason_is_not_lost() -> None:
    history = without_arrival(clean())
    attempts = [one._replace(verdict="exhausted") if one.event_id == "evt_3" else one for one in history.attempts]

    assert check(replace(history, attempts=attempts), LIMIT).violations == []


def test_an_interrupted_attempt_costs_no_number() -> None:
    history = clean()
    cut = next(one for one in history.attempts if one.event_id == "evt_3")._replace(verdict="interrupted")

    assert check(replace(history, attempts=[cut, *history.attempts]), LIMIT).violations == []


@pytest.mark.parametrize(("n", "excess"), [(5, 0.0), (6, 1.0), (25, 20.0)])
def test_the_worst_window_is_exact(n: int, excess: float) -> None:
    burst = [Arrival(100.0, "/all", "evt_0", 1, "", 200, "valid", "p0")] * n
    steady = [Arrival(101.0 + at / 10, "/all", "evt_0", 1, "", 200, "valid", "p0") for at in range(50)]
    history = History((), (ALL,), [*steady, *burst], (), {})

    assert worst_excess(history, LIMIT) == pytest.approx(excess, abs=1e-6)


def test_hosts_are_limited_each_by_itself_and_two_paths_of_one_host_together() -> None:
    def five_each(first: Endpoint, second: Endpoint) -> History:
        arrivals = [Arrival(1.0, one.path, "", 1, "", 200, "valid", "") for one in (first, second) for _ in range(5)]
        return History((), (first, second), arrivals, (), {})

    assert worst_excess(five_each(ALL, PICKY), LIMIT) == pytest.approx(0.0)
    assert worst_excess(five_each(ALL, PICKY._replace(host="host-a")), LIMIT) == pytest.approx(5.0)


def test_what_the_harness_itself_held_up_may_come_at_once_and_no_more() -> None:
    held_up = [Arrival(1.0, "/all", "", 1, "", 200, "valid", "") for _ in range(9)]
    history = History((), (ALL,), held_up, (), {})

    assert worst_excess(history, LIMIT.behind(0.4)) == pytest.approx(0.0)
    assert worst_excess(history, LIMIT.behind(0.3)) == pytest.approx(1.0)
