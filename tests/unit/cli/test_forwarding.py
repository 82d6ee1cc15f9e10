"""What the listening end knows of events, over sessions that come and go."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest

from dispatcher.cli import forwarding
from dispatcher.cli.forwarding import Answer, Envelope, Flood, Forwarder, Known, Post, Progress, Relay

OK = Answer(204, None, 1)


def an_event(n: int) -> Known:
    return Known(f"evt_{n}", "verification.completed", "test", b"{}", f"place-{n}", n)


def a_frame(n: int, *, seq: int | None = None) -> dict[str, Any]:
    return {
        "id": f"evt_{n}",
        "seq": n if seq is None else seq,
        "event_type": "verification.completed",
        "resume": f"place-{n}",
        "body": base64.b64encode(b"{}").decode(),
    }


def test_the_place_to_go_on_from_moves_over_what_is_answered_without_a_gap() -> None:
    progress = Progress()
    events = [an_event(n) for n in range(1, 5)]
    for event in events:
        progress.begin(event)

    places = []
    for n in (1, 3, 2, 4):
        progress.answer(events[n - 1], OK)
        places.append(progress.resume)

    assert places == ["place-1", "place-1", "place-3", "place-4"]


def test_the_server_moves_the_place_only_while_nothing_is_unanswered() -> None:
    progress = Progress()
    progress.move("further")
    progress.begin(an_event(1))
    progress.move("too far")

    assert progress.resume == "further"


def test_more_events_than_any_window_allows_are_a_flood() -> None:
    progress = Progress()
    for n in range(forwarding._MOST_KNOWN):
        progress.begin(an_event(n))

    with pytest.raises(Flood):
        progress.begin(an_event(-1))


def test_answers_of_late_are_remembered_and_the_memory_is_bounded() -> None:
    progress = Progress()
    for n in range(forwarding._MOST_KNOWN + 5):
        progress.begin(an_event(n))
        progress.answer(progress.find(f"evt_{n}") or an_event(n), OK)

    assert progress.answer_of("evt_4") is None
    assert progress.answer_of("evt_5") == OK
    assert progress.find("evt_5") is None


class HeldForwarder:
    """Forwards when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.last: Known | None = None
        self.release = asyncio.Event()

    async def forward(self, event: Known, *, again: bool = False) -> Answer:
        self.asked.append(event.event_id)
        await self.release.wait()
        self.last = event
        return OK


@pytest.fixture
async def relay() -> AsyncIterator[tuple[Relay, HeldForwarder]]:
    forwarder = HeldForwarder()
    made = Relay(cast("Forwarder", forwarder))
    yield made, forwarder
    await made.aclose()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_event_that_comes_again_while_under_way_is_forwarded_once_and_told_by_its_new_number(
    relay: tuple[Relay, HeldForwarder],
) -> None:
    told: list[Any] = []
    made, forwarder = relay
    made.join(told.append)
    made.take(a_frame(1))
    await settle()
    made.cut()
    made.join(told.append)
    made.take(a_frame(1, seq=9))
    forwarder.release.set()
    await settle()

    assert forwarder.asked == ["evt_1"]
    assert [one["seq"] for one in told] == [9]


async def test_an_answer_is_never_told_by_a_number_of_an_earlier_session(relay: tuple[Relay, HeldForwarder]) -> None:
    told: list[Any] = []
    made, forwarder = relay
    made.join(told.append)
    made.take(a_frame(1))
    await settle()
    made.cut()
    made.join(told.append)
    forwarder.release.set()
    await settle()

    assert told == []


async def test_an_event_that_was_answered_while_the_next_session_began_is_only_told_again(
    relay: tuple[Relay, HeldForwarder],
) -> None:
    told: list[Any] = []
    made, forwarder = relay
    forwarder.release.set()
    made.join(lambda _: None)
    made.take(a_frame(1))
    await settle()
    assert made.progress.resume == "place-1"
    made.cut()
    made.join(told.append)
    made.take(a_frame(1, seq=3))
    await settle()

    assert forwarder.asked == ["evt_1"]
    assert [(one["seq"], one["status"]) for one in told] == [(3, 204)]
    assert made.n_repeated == 1


@pytest.mark.parametrize("frame", [{}, {"id": "evt_1"}, {**a_frame(1), "body": "%"}, {**a_frame(1), "body": "abc"}])
async def test_a_frame_that_lacks_something_is_refused(
    relay: tuple[Relay, HeldForwarder], frame: dict[str, Any]
) -> None:
    made, _ = relay

    with pytest.raises((LookupError, ValueError)):
        made.take(frame)


@asynccontextmanager
async def a_program(answer: bytes, *, hangs_up: bool) -> AsyncIterator[tuple[Forwarder, list[Answer]]]:
    """Give a forwarder to a program that answers with these bytes, and then nothing or a cut."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}")
        writer.write(answer)
        await writer.drain()
        if not hangs_up:
            await reader.read()
        writer.close()

    answers: list[Answer] = []
    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        tell = lambda _, answer, __: answers.append(answer)  # noqa: E731 - three arguments, one wanted
        yield Forwarder(Post(session, url, Envelope(b"k" * 36, "test")), on_answer=tell), answers


@pytest.mark.parametrize("hangs_up", [False, True], ids=["stalls", "ends"])
@pytest.mark.parametrize(
    "body",
    [b"content-length: 10\r\n\r\nx", b"transfer-encoding: chunked\r\n\r\n5\r\nab", b"content-length: 10\r\n\r\n"],
    ids=["short", "chunked", "none"],
)
async def test_a_whole_head_is_the_answer_whatever_becomes_of_the_body(
    monkeypatch: pytest.MonkeyPatch, body: bytes, hangs_up: bool
) -> None:
    monkeypatch.setattr(forwarding, "BODY_SECONDS", 0.05)
    async with a_program(b"HTTP/1.1 200 OK\r\n" + body, hangs_up=hangs_up) as (forwarder, answers):
        await forwarder.forward(an_event(1))

    assert [(one.status, one.reason) for one in answers] == [(200, None)]


async def test_half_a_head_is_no_answer() -> None:
    async with a_program(b"HTTP/1.1 200 OK\r\ncontent-", hangs_up=True) as (forwarder, answers):
        await forwarder.forward(an_event(1))

    assert [one.status for one in answers] == [None]
