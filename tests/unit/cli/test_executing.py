"""Events into a command of the shell: what it gets, what its end means, and that none is left behind."""

import asyncio
from pathlib import Path

import psutil
import pytest
from standardwebhooks import Webhook

from dispatcher.cli import executing
from dispatcher.cli.executing import Run
from dispatcher.cli.forwarding import Answer, Envelope, Forwarder, Known
from dispatcher.policy.signing import show_secret

KEY = b"k" * 36


def an_event(body: bytes = b'{"name": "Zo\xc3\xab"}') -> Known:
    return Known("evt_1", "verification.completed", "test", body, "place-1", 1)


async def answer_of(command: str, event: Known) -> Answer:
    return await Forwarder(Run(command, Envelope(KEY, "test")), on_answer=lambda *_: None).forward(event)


async def test_a_command_gets_the_body_and_the_signed_headers(tmp_path: Path) -> None:
    got = tmp_path / "got"
    told = "$WEBHOOK_ID $WEBHOOK_TIMESTAMP $WEBHOOK_SIGNATURE $X_WEBHOOK_EVENT"
    script = f"cat > {got}; echo {told} > {got}.head"

    answer = await answer_of(script, an_event())

    event_id, stamp, signature, event_type = (tmp_path / "got.head").read_text().split()
    headers = {"webhook-id": event_id, "webhook-timestamp": stamp, "webhook-signature": signature}
    Webhook(show_secret(KEY)).verify(got.read_bytes(), headers)
    assert (answer.status, answer.reason, event_type) == (204, None, "verification.completed")


@pytest.mark.parametrize(("command", "reason"), [("exit 3", "exit 3"), ("no-such-command 2>&-", "exit 127")])
async def test_another_end_than_0_is_a_failure(command: str, reason: str) -> None:
    answer = await answer_of(command, an_event())

    assert (answer.status, answer.reason) == (None, reason)


async def test_a_command_need_not_read_what_it_gets() -> None:
    assert (await answer_of("exec <&-", an_event(b"x" * 250_000))).status == 204


def number_in(file: Path) -> int | None:
    text = file.read_text() if file.exists() else ""
    return int(text) if text.endswith("\n") else None


def is_running(number: int) -> bool:
    try:
        # Whoever adopts what is left may take its time to bury it.
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_a_run_that_is_canceled_leaves_nothing_behind(tmp_path: Path) -> None:
    task = asyncio.create_task(answer_of(f"sleep 600 & echo $! > {tmp_path}/child; wait", an_event()))
    while (child := number_in(tmp_path / "child")) is None:
        assert not task.done(), task
        await asyncio.sleep(0.01)

    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    while is_running(child):
        await asyncio.sleep(0.01)


async def test_a_run_that_takes_too_long_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executing, "RUN_SECONDS", 0.05)

    assert (await answer_of("sleep 600", an_event())).reason == "timeout"
