"""Receive one request whole: verify it, recognise a repetition, do the work once, and say what to answer."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

from dispatcher.receiver.inbox import Claim, Inbox, Standing
from dispatcher.receiver.verify import TOLERANCE_SECONDS, Headers, InvalidWebhook, Webhook, secret_keys, verify

LARGEST_BODY: Final = 1_048_576
"""What a receiver need read, in bytes; a body has at most a quarter of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What to answer; the text is for whoever reads the sender's log."""

    status: int
    text: str = ""


@dataclass(frozen=True, slots=True)
class _Taken:
    webhook: Webhook
    claim: Claim


_ANSWERS: Final = {
    Standing.DONE: Answer(204),
    # Not 503: senders slow down the whole host on it.
    Standing.BUSY: Answer(409, "this event is being worked on; send it again later"),
}


class Reception:
    """Receives for one endpoint. Immutable, any thread.

    The work gets each event once, as long as it ends within the inbox's lease, and again after a failure or a death.
    The sender waits five seconds for the answer: put the event into a queue or a table and do the rest later.
    What the work raises goes on to the caller, to be answered with 500; the event is then delivered again.

    Endpoints get the same events under the same ids: give each reception of a shared inbox a `name` of its own, or what
    one has done is done for all. The name is part of what the inbox remembers; a new one remembers nothing.

    Raises:
        ValueError: a secret is none, or there is none, or the name has a slash; at once, so that a wrong configuration
            does not start.
    """

    def __init__(
        self, secrets: str | Sequence[str], inbox: Inbox, *, name: str = "", tolerance: float = TOLERANCE_SECONDS
    ) -> None:
        self._secrets = [secrets] if isinstance(secrets, str) else list(secrets)
        secret_keys(self._secrets)
        if "/" in name:
            message = f"{name!r} is no name for a reception: a slash ends it"
            raise ValueError(message)
        self._inbox = inbox
        # Without a name as ever, so that an inbox from before there were names stays good.
        self._prefix = f"{name}/" if name else ""
        self._tolerance = tolerance

    def answer(self, headers: Headers, body: bytes, work: Callable[[Webhook], object]) -> Answer:
        """Receive a request; `body` is its raw body, unparsed."""
        taken = self._take(headers, body)
        if isinstance(taken, Answer):
            return taken
        try:
            work(taken.webhook)
        except BaseException:
            self._inbox.release(taken.claim)
            raise
        self._inbox.finish(taken.claim)
        return Answer(204)

    async def answer_async(self, headers: Headers, body: bytes, work: Callable[[Webhook], Awaitable[object]]) -> Answer:
        """Receive a request without blocking the loop: the inbox is asked in a thread.

        Canceled while the inbox is asked, a claim may stay behind; it is void after its lease, as after a death.
        """
        taken = await asyncio.to_thread(self._take, headers, body)
        if isinstance(taken, Answer):
            return taken
        try:
            await work(taken.webhook)
        except BaseException:
            # In the loop: a canceled task gets no second await.
            self._inbox.release(taken.claim)
            raise
        await asyncio.to_thread(self._inbox.finish, taken.claim)
        return Answer(204)

    def _take(self, headers: Headers, body: bytes) -> _Taken | Answer:
        try:
            webhook = verify(headers, body, self._secrets, tolerance=self._tolerance)
        except InvalidWebhook as refusal:
            return Answer(400, f"{refusal.reason}: {refusal}")
        claim = self._inbox.claim(self._prefix + webhook.id)
        return _ANSWERS.get(claim.standing) or _Taken(webhook, claim)
