"""Names to vetted addresses, in threads of their own.

A look-up cannot be canceled: a name server that answers nobody holds its thread for the system
resolver's own patience, 10 s and more. In the loop's shared pool a dozen such names stop everything. So:

- threads are counted, those given up on included, and started for one look-up each;
- names that end in the same three labels get at most 4 of them, and in the same two at most 16: one owner's
  name server holds no more, whether names are bought below `com` or below `co.uk`;
- names that failed lately get at most half of all threads, and the last few threads, of two labels and of
  all, are kept for names that resolved lately: somebody else's tarpit, even a hundred of them, takes nothing
  from a healthy name;
- nobody waits longer than 2 s, queue included. A name that got no thread in that time, since others had
  them all, goes on with what it resolved to in the last five minutes, and its failure is not held against it.

One forbidden address refuses the whole answer: a set that mixes a public and a private address is how a
check that looks at the first is passed.
"""

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from dispatcher.kit import clock
from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.addresses import EgressPolicy, refusal_of
from dispatcher.sending.faults import AttemptFailed

GetAddressInfo = Callable[..., Sequence[tuple[Any, ...]]]


class Address(NamedTuple):
    """Where to dial: the socket family and the address in text."""

    family: socket.AddressFamily
    text: str


@dataclass(frozen=True, slots=True)
class ResolverLimits:
    """Bounds of the look-ups. The thread counts are guesses: 128 idle stacks cost about 2 MiB."""

    lookup_seconds: float = 2.0
    keep_seconds: float = 10.0
    keep_failure_seconds: float = 30.0
    keep_stale_seconds: float = 300.0
    threads: int = 128
    threads_for_known: int = 16
    threads_per_three_labels: int = 4
    threads_per_two_labels: int = 16
    threads_per_two_labels_for_known: int = 8
    names: int = 10_000


DEFAULT_LIMITS: Final = ResolverLimits()


class _Lookup:
    """One look-up that any number of attempts wait for."""

    __slots__ = ("future", "is_started", "name", "three_labels", "timer", "two_labels")

    def __init__(self, name: str, future: "asyncio.Future[tuple[Address, ...]]") -> None:
        self.name = name
        labels = name.split(".")
        self.three_labels = tuple(labels[-3:])
        self.two_labels = tuple(labels[-2:])
        self.future = future
        self.is_started = False
        self.timer: asyncio.TimerHandle | None = None


class _Kept(NamedTuple):
    """What is remembered of a name until `until` (monotonic): addresses, or why there are none.

    What was told at `told_at` may serve for longer when nobody could be asked since.
    """

    until: float
    told_at: float
    addresses: tuple[Address, ...]
    reason: str


class Resolver:
    """Looks names up; one per process and policy. `getaddrinfo` is the system's, or a test's.

    `allow_localhost` makes `localhost` and names below it mean the loopback addresses that the policy
    allows, without asking anybody. One loop only.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        allow_localhost: bool = False,
        limits: ResolverLimits = DEFAULT_LIMITS,
        getaddrinfo: GetAddressInfo = socket.getaddrinfo,
    ) -> None:
        self._policy = policy
        self._allow_localhost = allow_localhost
        self._limits = limits
        self._getaddrinfo = getaddrinfo
        # Touched in the loop's thread only; look-up threads report through the loop.
        self._kept: dict[str, _Kept] = {}
        self._under_way: dict[str, _Lookup] = {}
        self._queue: list[_Lookup] = []
        self._n_threads = 0
        self._n_by_ending: Counter[tuple[str, ...]] = Counter()

    async def resolve(self, name: str) -> tuple[Address, ...]:
        """Return the addresses of a name in the system's order, never empty, each allowed by policy.

        Joins a look-up of the same name under way; a cancel leaves it running for the others.

        Raises:
            AttemptFailed: `dns_error` or `address_forbidden`.
        """
        if self._allow_localhost and (name == "localhost" or name.endswith(".localhost")):
            return self._loopback()
        kept = self._kept.get(name)
        if kept is not None and clock.mono() < kept.until:
            found = self._unpack(kept)
        else:
            lookup = self._under_way.get(name) or self._begin(name)
            found = await asyncio.shield(lookup.future)
        if any(refusal_of(address.text, self._policy) is not None for address in found):
            raise forbidden()
        return found

    def _loopback(self) -> tuple[Address, ...]:
        both = (Address(socket.AF_INET, "127.0.0.1"), Address(socket.AF_INET6, "::1"))
        allowed = tuple(one for one in both if refusal_of(one.text, self._policy) is None)
        if not allowed:
            raise forbidden()
        return allowed

    @staticmethod
    def _unpack(kept: _Kept) -> tuple[Address, ...]:
        if not kept.addresses:
            raise AttemptFailed(OutcomeKind.DNS_ERROR, kept.reason)
        return kept.addresses

    def _begin(self, name: str) -> _Lookup:
        loop = asyncio.get_running_loop()
        lookup = _Lookup(name, loop.create_future())
        # Attempts that were canceled leave nobody to see the result.
        lookup.future.add_done_callback(lambda future: future.exception())
        lookup.timer = loop.call_later(self._limits.lookup_seconds, self._give_up, lookup)
        self._under_way[name] = lookup
        self._queue.append(lookup)
        self._start_what_may_start()
        return lookup

    def _start_what_may_start(self) -> None:
        waiting = []
        for lookup in self._queue:
            if lookup.future.done():
                continue
            if not (self._may_start(lookup) and self._start(lookup)):
                waiting.append(lookup)
        self._queue = waiting

    def _may_start(self, lookup: _Lookup) -> bool:
        limits = self._limits
        kept = self._kept.get(lookup.name)
        of_two_labels = limits.threads_per_two_labels
        of_all = limits.threads - limits.threads_for_known
        if kept is not None and kept.addresses:
            of_two_labels += limits.threads_per_two_labels_for_known
            of_all = limits.threads
        elif kept is not None:
            of_all = limits.threads // 2
        return (
            self._n_by_ending[lookup.three_labels] < limits.threads_per_three_labels
            and self._n_by_ending[lookup.two_labels] < of_two_labels
            and self._n_threads < of_all
        )

    def _start(self, lookup: _Lookup) -> bool:
        """Give a look-up its thread; false when the system has none for us, and then it goes on waiting."""
        loop = asyncio.get_running_loop()
        # A daemon, so that a tarpit does not hold up the end of the process.
        thread = threading.Thread(target=self._look_up, args=(loop, lookup), name="look-up", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        lookup.is_started = True
        self._n_threads += 1
        # One ending where the name has two labels.
        self._n_by_ending.update({lookup.three_labels, lookup.two_labels})
        return True

    def _look_up(self, loop: asyncio.AbstractEventLoop, lookup: _Lookup) -> None:
        """Ask the system; runs in a thread and touches nothing of ours but the loop's door."""
        addresses: tuple[Address, ...] = ()
        reason = "the name has no address"
        try:
            # The final full stop keeps search lists out: `vault.svc` must not grow a suffix.
            answers = self._getaddrinfo(lookup.name + ".", None, type=socket.SOCK_STREAM)
            addresses = tuple(dict.fromkeys(Address(one[0], one[4][0]) for one in answers))
        except socket.gaierror as fault:
            reason = _reason_of(fault)
        except (OSError, UnicodeError) as fault:
            reason = f"the look-up failed ({type(fault).__name__})"
        # The loop may be gone by the time a slow name server answers.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._finish, lookup, addresses, reason)

    def _finish(self, lookup: _Lookup, addresses: tuple[Address, ...], reason: str) -> None:
        self._n_threads -= 1
        for ending in {lookup.three_labels, lookup.two_labels}:
            self._n_by_ending[ending] -= 1
            if not self._n_by_ending[ending]:
                del self._n_by_ending[ending]
        if not lookup.future.done():
            self._keep(lookup.name, addresses, reason)
            self._settle(lookup, addresses, reason)
        self._start_what_may_start()

    def _give_up(self, lookup: _Lookup) -> None:
        if lookup.future.done():
            return
        if lookup.is_started:
            reason = "no name server answered in time"
            self._keep(lookup.name, (), reason)
            self._settle(lookup, (), reason)
        else:
            self._settle(lookup, self._stale(lookup.name), "too many names were being looked up")

    def _stale(self, name: str) -> tuple[Address, ...]:
        """Return what a name was told lately, and go on with it for a while before anybody waits again."""
        now = clock.mono()
        kept = self._kept.get(name)
        if kept is None or now - kept.told_at > self._limits.keep_stale_seconds:
            return ()
        if kept.addresses:
            self._kept[name] = kept._replace(until=now + self._limits.keep_seconds)
        return kept.addresses

    def _keep(self, name: str, addresses: tuple[Address, ...], reason: str) -> None:
        limits = self._limits
        now = clock.mono()
        seconds = limits.keep_seconds if addresses else limits.keep_failure_seconds
        # Moved to the end, so that the names beyond the bound are those not asked for longest.
        self._kept.pop(name, None)
        self._kept[name] = _Kept(now + seconds, now, addresses, reason)
        if len(self._kept) > limits.names:
            del self._kept[next(iter(self._kept))]

    def _settle(self, lookup: _Lookup, addresses: tuple[Address, ...], reason: str) -> None:
        if lookup.timer is not None:
            lookup.timer.cancel()
        self._under_way.pop(lookup.name, None)
        if addresses:
            lookup.future.set_result(addresses)
        else:
            lookup.future.set_exception(AttemptFailed(OutcomeKind.DNS_ERROR, reason))


def forbidden() -> AttemptFailed:
    """Return the failure of a target that policy refuses; it never says which address that was."""
    return AttemptFailed(OutcomeKind.ADDRESS_FORBIDDEN, "requests to this address are not allowed")


def _reason_of(fault: socket.gaierror) -> str:
    return {
        socket.EAI_NONAME: "the name does not exist",
        socket.EAI_NODATA: "the name has no address",
        socket.EAI_AGAIN: "the name servers failed",
        socket.EAI_FAIL: "the name servers refused",
    }.get(fault.errno or 0, "the look-up failed")
