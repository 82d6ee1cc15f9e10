"""The resolver, its system look-up replaced by a script of blocking functions."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import pytest

from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.addresses import PUBLIC_ONLY, EgressPolicy
from dispatcher.sending.faults import AttemptFailed
from dispatcher.sending.resolver import Address, Resolver, ResolverLimits

HEALTHY = [Address(socket.AF_INET, "1.1.1.1")]


class Names:
    """A scripted name service: names to answers, or to a tarpit that holds until released."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {name.replace("_", "."): one for name, one in answers.items()}
        self.asked: list[str] = []
        self.n_running = 0
        self.most_running = 0
        self.release = threading.Event()
        self._lock = threading.Lock()

    def __call__(self, name: str, port: None, *, type: int) -> list[tuple[Any, ...]]:
        assert port is None
        assert type == socket.SOCK_STREAM
        with self._lock:
            self.asked.append(name)
            self.n_running += 1
            self.most_running = max(self.most_running, self.n_running)
        try:
            return self._answer(name.removesuffix("."))
        finally:
            with self._lock:
                self.n_running -= 1

    def _answer(self, name: str) -> list[tuple[Any, ...]]:
        answer = self.answers.get(name, "tarpit")
        if answer == "tarpit":
            self.release.wait(20)
            answer = OSError("released")
        if isinstance(answer, Exception):
            raise answer
        return [
            (socket.AF_INET6 if ":" in one else socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 0)) for one in answer
        ]


@contextmanager
def names_served(**answers: Any) -> Iterator[Names]:
    """Serve names and let every tarpitted thread go at the end."""
    names = Names(**answers)
    try:
        yield names
    finally:
        names.release.set()


def look_up_within(resolver: Resolver, seconds: float) -> None:
    """Give the look-ups that begin from now on so long."""
    resolver._limits = replace(resolver._limits, lookup_seconds=seconds)


async def failure_of(resolver: Resolver, name: str) -> AttemptFailed:
    with pytest.raises(AttemptFailed) as caught:
        await resolver.resolve(name)
    return caught.value


async def test_a_name_is_asked_in_its_absolute_form_and_answered_in_order_without_repeats() -> None:
    with names_served(a_com=["1.1.1.1", "2606:4700::1111", "1.1.1.1"]) as names:
        found = await Resolver(PUBLIC_ONLY, getaddrinfo=names).resolve("a.com")

    assert found == (
        Address(socket.AF_INET, "1.1.1.1"),
        Address(socket.AF_INET6, "2606:4700::1111"),
    )
    assert names.asked == ["a.com."]


@pytest.mark.parametrize("hidden", ["127.0.0.1", "10.0.0.1", "::1", "::ffff:7f00:1", "fe80::1%eth0"])
async def test_one_forbidden_address_refuses_the_whole_answer_and_is_not_told(hidden: str) -> None:
    with names_served(a_com=["1.1.1.1", hidden]) as names:
        failure = await failure_of(Resolver(PUBLIC_ONLY, getaddrinfo=names), "a.com")

    assert failure.kind is OutcomeKind.ADDRESS_FORBIDDEN
    assert hidden not in str(failure)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), "the name does not exist"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "the name servers failed"),
        (socket.gaierror(socket.EAI_NODATA, "x"), "the name has no address"),
        (UnicodeError("label too long"), "the look-up failed (UnicodeError)"),
        ([], "the name has no address"),
    ],
)
async def test_a_name_without_addresses_is_a_dns_error_with_its_reason(answer: Any, reason: str) -> None:
    with names_served(a_com=answer) as names:
        failure = await failure_of(Resolver(PUBLIC_ONLY, getaddrinfo=names), "a.com")

    assert (failure.kind, failure.reason) == (OutcomeKind.DNS_ERROR, reason)


async def test_a_slow_name_fails_in_time_and_the_failure_is_remembered() -> None:
    limits = ResolverLimits(lookup_seconds=0.05)
    with names_served() as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        first = await failure_of(resolver, "slow.com")
        second = await failure_of(resolver, "slow.com")

    assert first.reason == second.reason == "no name server answered in time"
    assert names.asked == ["slow.com."]


async def test_answers_and_failures_are_asked_again_after_their_time() -> None:
    limits = ResolverLimits(keep_seconds=0.0, keep_failure_seconds=0.0)
    with names_served(a_com=["1.1.1.1"], b_com=[]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        for _ in range(2):
            await resolver.resolve("a.com")
            await failure_of(resolver, "b.com")

    assert names.asked == ["a.com.", "b.com."] * 2


async def test_those_who_ask_for_one_name_share_one_look_up_and_a_cancel_harms_nobody() -> None:
    with names_served() as names:
        resolver = Resolver(PUBLIC_ONLY, getaddrinfo=names)
        asking = [spawn(resolver.resolve("a.com"), name=f"ask-{n}") for n in range(3)]
        await asyncio.sleep(0)
        asking[0].cancel()
        names.release.set()
        with pytest.raises(asyncio.CancelledError):
            await asking[0]
        failures = [await asyncio.wait({one}) for one in asking[1:]]

    assert len(names.asked) == 1
    assert len(failures) == 2
    for one in asking[1:]:
        assert isinstance(one.exception(), AttemptFailed)


async def test_a_hundred_tarpits_hold_up_no_healthy_name() -> None:
    with names_served(healthy_com=["1.1.1.1"]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=ResolverLimits(lookup_seconds=20), getaddrinfo=names)
        stuck = [spawn(resolver.resolve(f"a.tarpit{n}.com"), name=f"stuck-{n}") for n in range(100)]
        await asyncio.sleep(0)

        found = await resolver.resolve("healthy.com")

        assert not any(one.done() for one in stuck)
        assert list(found) == HEALTHY
        for one in stuck:
            one.cancel()
        await asyncio.wait(stuck)


@asynccontextmanager
async def stuck(resolver: Resolver, names: Iterable[str]) -> AsyncIterator[None]:
    """Let names that nobody answers for be looked up meanwhile."""
    asking = [spawn(resolver.resolve(name), name=f"stuck-{name}") for name in names]
    await asyncio.sleep(0)
    try:
        yield
    finally:
        for one in asking:
            one.cancel()
        await asyncio.wait(asking)


async def test_one_domain_gets_a_few_threads_and_others_the_rest() -> None:
    limits = ResolverLimits(threads=8, threads_for_known=0, threads_per_two_labels=4)
    with names_served(healthy_com=["1.1.1.1"]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        async with stuck(resolver, (f"{n}.tarpit.com" for n in range(30))):
            assert list(await resolver.resolve("healthy.com")) == HEALTHY
            assert names.most_running <= 5


@pytest.mark.parametrize("suffix", ["co.uk", "com.au", "eu.org"])
async def test_a_tarpit_below_a_public_suffix_stops_nobody_else_below_it(suffix: str) -> None:
    with names_served() as names:
        names.answers[f"hooks.bank.{suffix}"] = ["1.1.1.1"]
        resolver = Resolver(PUBLIC_ONLY, limits=ResolverLimits(lookup_seconds=20), getaddrinfo=names)
        async with stuck(resolver, (f"h{n}.evil.{suffix}" for n in range(40))), asyncio.timeout(10):
            assert list(await resolver.resolve(f"hooks.bank.{suffix}")) == HEALTHY


async def test_all_names_of_one_domain_leave_most_threads_to_others() -> None:
    with names_served() as names:
        resolver = Resolver(PUBLIC_ONLY, getaddrinfo=names)
        deep = (f"h{n}.sub{n % 50}.evil.com" for n in range(200))
        async with stuck(resolver, [*deep, *(f"h{n}.evil.com" for n in range(200))]):
            assert resolver._n_threads == 16


async def test_a_name_that_resolved_before_is_looked_up_beside_any_number_of_tarpits_of_its_suffix() -> None:
    limits = ResolverLimits(lookup_seconds=20, keep_seconds=0.0)
    with names_served(known_co_uk=["1.1.1.1"], fresh_co_uk=["1.1.1.1"]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        await resolver.resolve("known.co.uk")
        tarpits = [f"h{n}.evil{n % 20}.co.uk" for n in range(100)]
        async with stuck(resolver, [*tarpits, "fresh.co.uk"]), asyncio.timeout(10):
            assert list(await resolver.resolve("known.co.uk")) == HEALTHY
            assert "fresh.co.uk." not in names.asked


async def test_a_known_name_without_a_thread_goes_on_with_what_it_resolved_to_for_a_while() -> None:
    limits = ResolverLimits(lookup_seconds=20, keep_seconds=0.0, threads=1, threads_for_known=0)
    with names_served(known_com=["1.1.1.1"]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        await resolver.resolve("known.com")
        look_up_within(resolver, 0.05)
        async with stuck(resolver, ["tarpit.com"]):
            assert list(await resolver.resolve("known.com")) == HEALTHY
            assert names.asked == ["known.com.", "tarpit.com."]

            resolver._kept["known.com"] = resolver._kept["known.com"]._replace(told_at=clock.mono() - 301)
            failure = await failure_of(resolver, "known.com")

    assert failure.reason == "too many names were being looked up"


async def test_a_name_that_got_no_thread_is_asked_for_as_soon_as_there_is_one() -> None:
    limits = ResolverLimits(lookup_seconds=0.05, threads=1, threads_for_known=0)
    with names_served(fresh_com=["1.1.1.1"]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        async with stuck(resolver, ["tarpit.com"]):
            failure = await failure_of(resolver, "fresh.com")
        names.release.set()

        # The thread comes back through the loop.
        async with asyncio.timeout(10):
            while resolver._n_threads:
                await asyncio.sleep(0)
        look_up_within(resolver, 20)
        assert list(await resolver.resolve("fresh.com")) == HEALTHY

    assert failure.reason == "too many names were being looked up"


async def test_a_name_that_resolved_before_has_threads_kept_for_it() -> None:
    limits = ResolverLimits(threads=4, threads_for_known=1, keep_seconds=0.0)
    with names_served(known_com=["1.1.1.1"], fresh_com=["1.1.1.1"]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        await resolver.resolve("known.com")
        stuck = [spawn(resolver.resolve(f"a.tarpit{n}.com"), name=f"stuck-{n}") for n in range(9)]
        fresh = spawn(resolver.resolve("fresh.com"), name="fresh")
        await asyncio.sleep(0)

        assert list(await resolver.resolve("known.com")) == HEALTHY
        assert not fresh.done()
        for one in (*stuck, fresh):
            one.cancel()
        await asyncio.wait({*stuck, fresh})


async def test_names_that_failed_lately_get_at_most_half_of_the_threads() -> None:
    limits = ResolverLimits(lookup_seconds=0.05, keep_failure_seconds=0.0, threads=4, threads_for_known=0)
    with names_served(fresh_com=["1.1.1.1"]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        for number in (1, 2):
            await failure_of(resolver, f"a.tarpit{number}.com")
        look_up_within(resolver, 20)

        again = [spawn(resolver.resolve(f"a.tarpit{n}.com"), name=f"again-{n}") for n in (1, 2)]
        await asyncio.sleep(0)

        assert list(await resolver.resolve("fresh.com")) == HEALTHY
        assert names.most_running <= 3
        for one in again:
            one.cancel()
        await asyncio.wait(again)


async def test_a_waiting_name_starts_when_a_thread_comes_free() -> None:
    limits = ResolverLimits(threads=1, threads_for_known=0)
    with names_served(b_com=["1.1.1.1"]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        stuck = spawn(resolver.resolve("a.com"), name="stuck")
        waiting = spawn(resolver.resolve("b.com"), name="waiting")
        await asyncio.sleep(0)
        names.release.set()

        assert list(await waiting) == HEALTHY
        await asyncio.wait({stuck})


async def test_the_memory_for_names_is_bounded() -> None:
    limits = ResolverLimits(names=2)
    with names_served(a_com=["1.1.1.1"], b_com=["1.1.1.1"], c_com=["1.1.1.1"]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        for name in ("a.com", "b.com", "c.com", "b.com", "a.com"):
            await resolver.resolve(name)

    assert names.asked == ["a.com.", "b.com.", "c.com.", "a.com."]


async def test_localhost_means_the_loopback_addresses_that_policy_allows_and_asks_nobody() -> None:
    with names_served() as names:
        both = Resolver(EgressPolicy.parse(["127.0.0.0/8", "::1"], []), allow_localhost=True, getaddrinfo=names)
        one = Resolver(EgressPolicy.parse(["127.0.0.0/8"], []), allow_localhost=True, getaddrinfo=names)
        none = Resolver(PUBLIC_ONLY, allow_localhost=True, getaddrinfo=names)

        assert [address.text for address in await both.resolve("localhost")] == ["127.0.0.1", "::1"]
        assert [address.text for address in await one.resolve("a.localhost")] == ["127.0.0.1"]
        assert (await failure_of(none, "localhost")).kind is OutcomeKind.ADDRESS_FORBIDDEN
    assert names.asked == []


async def test_localhost_without_the_option_is_a_name_like_any_other() -> None:
    with names_served(localhost=["127.0.0.1"]) as names:
        failure = await failure_of(Resolver(PUBLIC_ONLY, getaddrinfo=names), "localhost")

    assert failure.kind is OutcomeKind.ADDRESS_FORBIDDEN
    assert names.asked == ["localhost."]


async def test_a_thread_that_the_system_refuses_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    limits = ResolverLimits(lookup_seconds=0.05, threads=2, threads_for_known=0)
    with names_served(a_com=["1.1.1.1"]) as names:
        resolver = Resolver(PUBLIC_ONLY, limits=limits, getaddrinfo=names)
        with monkeypatch.context() as system:
            system.setattr(threading.Thread, "start", refuse)
            failures = [await failure_of(resolver, f"x{n}.com") for n in range(4)]
        look_up_within(resolver, 20)

        assert list(await resolver.resolve("a.com")) == HEALTHY
    assert {failure.kind for failure in failures} == {OutcomeKind.DNS_ERROR}
