"""How many tests may be sent from one process."""

from contextlib import ExitStack

import pytest

from dispatcher.api.problems import Problem
from dispatcher.api.trial_bounds import MOST, MOST_OF_TENANT, TrialBounds
from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant

HOST = "https://example.com:443"
OURS, OTHERS = Tenant(1, "live"), Tenant(2, "live")


class Hours:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def mono(self) -> float:
        return self.now


@pytest.fixture
def hours(monkeypatch: pytest.MonkeyPatch) -> Hours:
    hours = Hours()
    monkeypatch.setattr(clock, "mono", hours.mono)
    return hours


def send(
    bounds: TrialBounds, endpoint: str = "we_1", *, tenant: Tenant = OURS, host: str = HOST, is_verified: bool = True
) -> str | None:
    """Return why a test may not be sent, with the seconds to wait; None when it was."""
    try:
        with bounds.admitted(tenant, endpoint, host, is_verified=is_verified):
            return None
    except Problem as problem:
        return f"{problem.code} {problem.headers['Retry-After']}"


def test_tests_of_one_endpoint_are_counted_by_the_minute(hours: Hours) -> None:
    bounds = TrialBounds(3, 60)

    first = [send(bounds, host=f"https://{n}.example:443") for n in range(4)]
    hours.now += 60.0

    assert first == [None, None, None, "rate_limited 60"]
    assert send(bounds) is None


def test_an_endpoint_that_is_made_anew_opens_no_more_at_its_host(hours: Hours) -> None:
    bounds = TrialBounds(3, 60)

    said = [send(bounds, f"we_{n}") for n in range(4)]

    assert said == [None, None, None, "rate_limited 60"]
    assert send(bounds, "we_9", host="https://other.example:443") is None
    assert send(bounds, "we_9", tenant=Tenant(1, "test")) is None
    assert send(bounds, "we_9", tenant=OTHERS) is None


def test_tests_to_one_host_are_counted_over_all_accounts(hours: Hours) -> None:
    bounds = TrialBounds(3, 5)

    said = [send(bounds, f"we_{n}", tenant=Tenant(n, "live")) for n in range(6)]

    assert said == [None] * 5 + ["rate_limited 60"]
    assert send(bounds, "we_9", host="https://other.example:443") is None


def test_tests_of_one_account_are_counted_over_all_hosts(hours: Hours) -> None:
    bounds = TrialBounds(3, 5)

    said = [send(bounds, f"we_{n}", host=f"https://{n}.example:443") for n in range(6)]

    assert said == [None] * 5 + ["rate_limited 60"]
    assert send(bounds, "we_9", tenant=OTHERS) is None


def test_one_that_is_refused_counts_nowhere(hours: Hours) -> None:
    bounds = TrialBounds(1, 60)

    assert [send(bounds), send(bounds, host="https://other.example:443")] == [None, "rate_limited 60"]
    assert send(bounds, "we_2", host="https://other.example:443") is None


def test_an_endpoint_that_has_not_proved_itself_gets_one_at_a_time(hours: Hours) -> None:
    bounds = TrialBounds(10, 60)

    with bounds.admitted(OURS, "we_1", HOST, is_verified=False):
        during = [
            send(bounds, is_verified=False),
            send(bounds, "we_2", is_verified=False),
            send(bounds, is_verified=True),
        ]

    assert during == ["test_under_way 1", None, None]
    assert send(bounds, is_verified=False) is None


def test_no_account_takes_all_places_and_all_have_an_end(hours: Hours) -> None:
    bounds = TrialBounds(10, 60)
    with ExitStack() as under_way:
        for n in range(MOST):
            tenant = Tenant(n // MOST_OF_TENANT, "live")
            under_way.enter_context(bounds.admitted(tenant, f"we_{n}", f"https://{n}.example:443", is_verified=True))
            if n == MOST_OF_TENANT - 1:
                assert send(bounds, "we_x", tenant=tenant) == "rate_limited 1"
                assert send(bounds, "we_x", tenant=OTHERS) is None
        assert send(bounds, "we_x", tenant=Tenant(99, "live")) == "rate_limited 1"

    assert send(bounds, "we_x", tenant=Tenant(0, "live")) is None
    assert not bounds._under_way


def test_a_test_that_fails_leaves_its_place(hours: Hours) -> None:
    bounds = TrialBounds(10, 60)

    with pytest.raises(OSError, match="broken"), bounds.admitted(OURS, "we_1", HOST, is_verified=False):
        raise OSError("broken")

    assert send(bounds, is_verified=False) is None
