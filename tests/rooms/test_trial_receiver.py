"""The trial receiver: answers as asked, checks signatures, tells what came."""

import base64
import hmac
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from dispatcher.embedded.trial_receiver import Behaviour, Received, TrialReceiver
from dispatcher.kit import clock
from dispatcher.receiver import Inbox, MemoryInbox

SECRET, OLD_SECRET = (f"whsec_{base64.b64encode(key * 32).decode()}" for key in (b"n", b"o"))
BODY = b'{"type":"webhook.ping"}'


def signed(body: bytes = BODY, secret: str = SECRET) -> dict[str, str]:
    """Return the headers of a webhook of this moment."""
    stamp = str(int(clock.now()))
    key = base64.b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, f"evt_1.{stamp}.".encode() + body, "sha256")
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
        "x-webhook-event": "webhook.ping",
        "x-webhook-attempt": "3",
    }


class Trial:
    """A running receiver, what it received, and a way to send to it."""

    def __init__(self, receiver: TrialReceiver, received: list[Received], session: aiohttp.ClientSession) -> None:
        self.receiver, self.received, self._session = receiver, received, session

    async def send(
        self, body: bytes = BODY, headers: dict[str, str] | None = None, path: str = "/hook"
    ) -> tuple[int, str]:
        async with self._session.post(self.receiver.url + path, data=body, headers=headers) as answer:
            return answer.status, await answer.text()


@asynccontextmanager
async def a_trial(behaviour: Behaviour, host: str = "127.0.0.1", inbox: Inbox | None = None) -> AsyncIterator[Trial]:
    received: list[Received] = []
    async with (
        TrialReceiver(behaviour, host=host, on_received=received.append, inbox=inbox) as receiver,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
    ):
        yield Trial(receiver, received, session)


async def test_answers_come_in_turn_round_and_round() -> None:
    async with a_trial(Behaviour(statuses=(500, 429, 204))) as trial:
        assert [(await trial.send())[0] for _ in range(7)] == [500, 429, 204, 500, 429, 204, 500]


async def test_it_behaves_otherwise_when_told() -> None:
    async with a_trial(Behaviour(statuses=(500,))) as trial:
        assert (await trial.send())[0] == 500
        trial.receiver.behave(Behaviour(statuses=(202,)))
        assert (await trial.send())[0] == 202


async def test_a_fail_rate_of_one_fails_always_and_of_zero_never() -> None:
    async with a_trial(Behaviour(fail_rate=1.0)) as trial:
        assert [(await trial.send())[0] for _ in range(5)] == [500] * 5
        trial.receiver.behave(Behaviour(fail_rate=0.0))
        assert [(await trial.send())[0] for _ in range(5)] == [204] * 5


async def test_either_secret_is_accepted_and_what_came_is_told() -> None:
    async with a_trial(Behaviour(secrets=(SECRET, OLD_SECRET))) as trial:
        for secret in (SECRET, OLD_SECRET):
            assert await trial.send(headers=signed(secret=secret), path="/a/b") == (204, "")

    first = trial.received[0]
    assert len(trial.received) == 2
    assert abs(first.at - clock.now()) < 30
    assert first.is_verified
    assert (first.path, first.event_id, first.event_type, first.attempt) == ("/a/b", "evt_1", "webhook.ping", "3")
    assert (first.status, first.fault, first.body) == (204, "", BODY)


@pytest.mark.parametrize(
    ("headers", "body", "told"),
    [
        (lambda: signed(secret=OLD_SECRET), BODY, "no signature matches"),
        (signed, BODY + b" ", "no signature matches"),
        (dict, BODY, "webhook-id is missing"),
        (lambda: {**signed(), "webhook-timestamp": "1"}, BODY, "in the past"),
        (lambda: {**signed(), "webhook-id": "évt"}, BODY, "not ASCII"),
    ],
    ids=["another secret", "another body", "unsigned", "old", "not ascii"],
)
async def test_what_is_not_signed_is_refused_with_the_reason(
    headers: Callable[[], dict[str, str]], body: bytes, told: str
) -> None:
    async with a_trial(Behaviour(secrets=(SECRET,))) as trial:
        status, text = await trial.send(body, headers())

    assert status == 400
    assert told in text
    (one,) = trial.received
    assert (one.is_verified, one.status, one.fault) == (False, 400, text)


async def test_a_refused_request_takes_no_turn() -> None:
    async with a_trial(Behaviour(statuses=(201, 202), secrets=(SECRET,))) as trial:
        assert (await trial.send())[0] == 400
        assert (await trial.send(headers=signed()))[0] == 201


async def test_without_secrets_everything_is_taken_and_called_unverified() -> None:
    async with a_trial(Behaviour()) as trial:
        assert (await trial.send())[0] == 204

    assert [(one.is_verified, one.fault) for one in trial.received] == [(False, "")]


async def test_with_an_inbox_an_event_is_taken_until_it_succeeds_and_then_only_recognised() -> None:
    inbox = MemoryInbox()
    async with a_trial(Behaviour(statuses=(500, 202), secrets=(SECRET,)), inbox=inbox) as trial:
        assert [(await trial.send(headers=signed()))[0] for _ in range(4)] == [500, 202, 204, 204]
        assert [one.is_duplicate for one in trial.received] == [False, False, True, True]

        inbox.claim("evt_2")
        assert (await trial.send(headers={"webhook-id": "evt_2"}))[0] == 400
        trial.receiver.behave(Behaviour())
        assert (await trial.send(headers={"webhook-id": "evt_2"}))[0] == 409


async def test_it_listens_on_ipv6_too() -> None:
    async with a_trial(Behaviour(), host="::1") as trial:
        assert (await trial.send())[0] == 204


def test_secrets_are_not_shown() -> None:
    assert SECRET not in repr(Behaviour(secrets=(SECRET,)))
