"""A request from its raw bytes to its answer: verified, recognised, worked on once."""

import asyncio
import threading
import time
from pathlib import Path

import pytest

from dispatcher.policy.signing import Signer, show_secret
from dispatcher.receiver import Answer, Claim, Inbox, MemoryInbox, Reception, SqliteInbox, Webhook

KEY = b"k" * 36
BODY = b'{"id":"evt_1"}'


def signed(event_id: str = "evt_1", body: bytes = BODY) -> dict[str, str]:
    stamp = str(int(time.time()))
    signature = Signer([KEY]).sign(event_id.encode(), stamp.encode(), body).decode()
    return {"webhook-id": event_id, "webhook-timestamp": stamp, "webhook-signature": signature}


class Desk:
    """A reception with work that can be told to fail."""

    def __init__(self, inbox: Inbox | None = None) -> None:
        self.inbox = inbox or MemoryInbox()
        self.reception = Reception(show_secret(KEY), self.inbox)
        self.done: list[str] = []
        self.failing = False

    def work(self, webhook: Webhook) -> None:
        if self.failing:
            message = "the queue is full"
            raise RuntimeError(message)
        self.done.append(webhook.id)

    async def work_async(self, webhook: Webhook) -> None:
        self.work(webhook)

    async def receive(self, way: str, headers: dict[str, str], body: bytes = BODY) -> Answer:
        if way == "sync":
            return self.reception.answer(headers, body, self.work)
        return await self.reception.answer_async(headers, body, self.work_async)


ways = pytest.mark.parametrize("way", ["sync", "async"])


@ways
async def test_a_new_event_is_worked_on_and_a_repeated_one_only_answered(way: str) -> None:
    desk = Desk()

    answers = [await desk.receive(way, signed()) for _ in range(3)]

    assert [answer.status for answer in answers] == [204, 204, 204]
    assert desk.done == ["evt_1"]


async def test_two_endpoints_that_share_an_inbox_each_get_every_event_once(tmp_path: Path) -> None:
    inbox, done = SqliteInbox(tmp_path / "inbox.db"), []
    receptions = {name: Reception(show_secret(KEY), inbox, name=name) for name in ("billing", "kyc", "")}

    for _ in range(2):
        for name, reception in receptions.items():
            assert reception.answer(signed(), BODY, lambda _, name=name: done.append(name)).status == 204  # type: ignore[misc]

    assert done == ["billing", "kyc", ""]


def test_an_inbox_from_before_there_were_names_stays_good() -> None:
    inbox = MemoryInbox()
    inbox.finish(inbox.claim("evt_1"))

    answer = Reception(show_secret(KEY), inbox).answer(signed(), BODY, lambda _: pytest.fail("done before"))

    assert answer.status == 204


def test_a_name_that_could_be_mistaken_for_another_with_an_id_is_refused() -> None:
    with pytest.raises(ValueError, match="a slash"):
        Reception(show_secret(KEY), MemoryInbox(), name="a/b")


@ways
async def test_what_is_not_ours_gets_400_with_the_reason_and_leaves_no_trace(way: str) -> None:
    desk = Desk()

    answer = await desk.receive(way, signed(), BODY + b"\n")

    assert answer.status == 400
    assert answer.text.startswith("signature_mismatch: no signature matches")
    assert (await desk.receive(way, signed())).status == 204
    assert desk.done == ["evt_1"]


@ways
async def test_failed_work_is_the_callers_to_answer_and_is_done_at_the_next_delivery(way: str) -> None:
    desk = Desk()
    desk.failing = True
    with pytest.raises(RuntimeError, match="queue is full"):
        await desk.receive(way, signed())
    desk.failing = False

    assert (await desk.receive(way, signed())).status == 204
    assert desk.done == ["evt_1"]


@ways
async def test_an_event_that_is_being_worked_on_is_put_off(way: str) -> None:
    desk = Desk()
    desk.inbox.claim("evt_1")

    answer = await desk.receive(way, signed())

    assert answer.status == 409
    assert desk.done == []


@pytest.mark.parametrize("secrets", ["", "whsec_", [], [show_secret(KEY), "no base64"]])
def test_a_secret_that_is_none_does_not_even_start(secrets: str | list[str]) -> None:
    with pytest.raises(ValueError, match="secret"):
        Reception(secrets, MemoryInbox())


async def test_canceled_work_can_be_claimed_again_at_once() -> None:
    desk = Desk()
    begun = asyncio.Event()

    async def hang(_: Webhook) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(desk.reception.answer_async(signed(), BODY, hang))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert (await desk.receive("async", signed())).status == 204


async def test_a_slow_inbox_does_not_hold_the_loop() -> None:
    loop_thread = threading.get_ident()
    asked_in = set()

    class Watched(MemoryInbox):
        def claim(self, event_id: str) -> Claim:
            asked_in.add(threading.get_ident())
            return super().claim(event_id)

    assert (await Desk(Watched()).receive("async", signed())).status == 204
    assert loop_thread not in asked_in
