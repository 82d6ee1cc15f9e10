"""How many may wait for what is not there yet."""

import asyncio

import pytest

from dispatcher.api.problems import Problem
from dispatcher.api.waiting import MOST, MOST_OF_KEY, MOST_OF_TENANT, Asker, Waiters
from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]


class Thing:
    """Something that may come to be there, and how often it was looked for."""

    def __init__(self) -> None:
        self.is_there = False
        self.n_looks = 0

    async def look(self) -> bool:
        self.n_looks += 1
        return self.is_there


class Client:
    """Who asks; it may hang up."""

    def __init__(self, key_id: str, account: int = 1) -> None:
        self.has_left = False
        self.asker = Asker(key_id, Tenant(account, "test"), lambda: self.has_left)


async def wait(waiters: Waiters, who: str | Client, thing: Thing, seconds: float = 8.0) -> bool:
    client = who if isinstance(who, Client) else Client(who)
    return await waiters.until_there(client.asker, thing.look, bool, seconds=seconds)


async def test_it_looks_until_something_is_there() -> None:
    waiters, thing, began = Waiters(), Thing(), clock.mono()
    waiting = asyncio.create_task(wait(waiters, "a", thing))
    await asyncio.sleep(1)
    thing.is_there = True

    assert await waiting
    assert clock.mono() - began < 2
    assert thing.n_looks < 7


async def test_it_gives_up_in_time() -> None:
    began = clock.mono()

    assert not await wait(Waiters(), "a", Thing())

    assert 7 < clock.mono() - began <= 8


async def test_one_key_may_wait_so_often_and_others_all_the_same() -> None:
    waiters, thing = Waiters(), Thing()
    async with asyncio.TaskGroup() as group:
        for _ in range(MOST_OF_KEY):
            group.create_task(wait(waiters, "a", thing))
        await asyncio.sleep(1)

        with pytest.raises(Problem) as caught:
            await wait(waiters, "a", thing)
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "1")
        # Who need not wait is answered, and so is another key.
        assert not await wait(waiters, "a", thing, seconds=0)
        assert not await wait(waiters, "b", thing, seconds=1)
    assert not await wait(waiters, "a", thing, seconds=1)

    # Keys come and go for as long as a process lives.
    assert not waiters._waiting


async def test_one_account_may_wait_so_often_however_many_keys_it_has() -> None:
    waiters, thing = Waiters(), Thing()
    async with asyncio.TaskGroup() as group:
        for n in range(MOST_OF_TENANT):
            group.create_task(wait(waiters, f"key{n}", thing))
        await asyncio.sleep(1)

        with pytest.raises(Problem) as caught:
            await wait(waiters, "another", thing)
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "1")
        assert not await wait(waiters, Client("another", account=2), thing, seconds=1)


async def test_who_hangs_up_makes_room_and_is_looked_for_no_more() -> None:
    waiters, thing, client = Waiters(), Thing(), Client("a")
    waiting = asyncio.create_task(wait(waiters, client, thing))
    await asyncio.sleep(1)

    client.has_left = True
    n_looks = thing.n_looks
    await asyncio.sleep(0.5)

    assert waiting.done()
    assert (thing.n_looks, waiters._waiting) == (n_looks, [])


async def test_all_keys_together_may_wait_so_often() -> None:
    waiters, thing = Waiters(), Thing()
    waiting = [asyncio.create_task(wait(waiters, Client(f"key{n}", account=n // 10), thing)) for n in range(MOST)]
    await asyncio.sleep(1)

    another = Client("another", account=99)
    with pytest.raises(Problem):
        await wait(waiters, another, thing)

    # Who is canceled makes room.
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert not await wait(waiters, another, thing, seconds=1)
    await asyncio.gather(*waiting[1:])
