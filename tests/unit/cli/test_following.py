"""Events are followed to the end of their deliveries, whatever else is delivered beside them."""

import time
from collections.abc import Iterator
from typing import Any

import pytest

from dispatcher.cli.following import Follower

URL = "http://127.0.0.1:9000/"


class Api:
    """One endpoint's log of deliveries, newest first, which grows by `noise` deliveries of others at every look."""

    def __init__(self, *, noise: int = 0) -> None:
        self.log: list[dict[str, Any]] = [a_delivery("before", "delivered")]
        self.events: list[str] = []
        self._noise = noise
        self._n = 0

    def publish(self, event: str, status: str | None) -> None:
        """Store an event, with a delivery unless nobody wants it."""
        self.events.insert(0, event)
        if status is not None:
            self.log.insert(0, a_delivery(event, status))

    def rows(self, path: str, limit: int | None, **query: Any) -> Iterator[dict[str, Any]]:
        match path:
            case "/v1/webhook_endpoints":
                found: list[dict[str, Any]] = [{"id": "we_1", "url": URL}]
            case "/v1/events":
                found = [{"id": event} for event in self.events]
            case "/v1/deliveries":
                found = [one for one in self.log if one["event_id"] == query["event_id"]]
            case _:
                found = list(self.log)
        for _ in range(self._noise):
            self._n += 1
            self.log.insert(0, a_delivery(f"other-{self._n}", "delivered"))
        yield from found[:limit]


def a_delivery(event: str, status: str) -> dict[str, Any]:
    return {"id": f"dlv-{event}", "event_id": event, "endpoint_id": "we_1", "status": status}


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now)


@pytest.mark.parametrize("n", [1, 30])
def test_a_delivery_that_is_retried_is_not_forgotten_while_others_come(n: int) -> None:
    api = Api(noise=300)
    follower = Follower(api)  # type: ignore[arg-type]
    for number in range(n):
        api.publish(f"ours-{number}", "retrying")

    ending = follower.follow(list(api.events), "check.completed", seconds=5, tell=lambda _: None)

    assert [one["status"] for one in ending.deliveries] == ["retrying"] * n
    assert {one["url"] for one in ending.deliveries} == {URL}
    assert not ending.is_good


@pytest.mark.parametrize("n", [1, 30])
def test_it_ends_as_soon_as_everything_rests(n: int) -> None:
    api = Api(noise=1)
    follower = Follower(api)  # type: ignore[arg-type]
    for number in range(n):
        api.publish(f"ours-{number}", "delivered" if number else None)
    began = time.monotonic()

    ending = follower.follow(list(api.events), "check.completed", seconds=60, tell=lambda _: None)

    assert ending.is_good
    assert len(ending.deliveries) == n - 1
    assert time.monotonic() == began


def test_an_event_that_is_not_stored_is_missing() -> None:
    ending = Follower(Api()).follow(["ours"], "check.completed", seconds=2, tell=lambda _: None)  # type: ignore[arg-type]

    assert ending.missing == {"ours"}
    assert not ending.is_good


def test_a_log_too_long_to_be_read_in_time_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    api = Api()
    follower = Follower(api)  # type: ignore[arg-type]
    for number in range(20):
        api.publish(f"ours-{number}", "delivered")
    api.log = [a_delivery(f"other-{n}", "delivered") for n in range(50)] + api.log
    ticks = iter(range(1_000))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(ticks)))

    ending = follower.follow(list(api.events), "check.completed", seconds=10, tell=lambda _: None)

    assert not ending.is_whole
    assert not ending.is_good
