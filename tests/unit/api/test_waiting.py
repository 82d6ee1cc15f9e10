"""How many may wait for what is not there yet."""

import asyncio

import pytest

from dispatcher.api.problems import Problem
from dispatcher.api.waiting import MOST, MOST_OF_KEY, Waiters
from dispatcher.kit import clock

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]


class Thing:
    """Something that may come to be there, and how often it was looked for."""

    def __init__(self) -> None:
        self.is_there = False
        self.n_looks = 0

    async def look(self) -> bool:
        self.n_looks += 1
        return self.is_there


async def wait(waiters: Waiters, key_id: str, thing: Thing, seconds: float = 8.0) -> bool:
    return await waiters.until_there(key_id, thing.look, bool, seconds=seconds)


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
    assert not waiters._of_key


async def test_all_keys_together_may_wait_so_often() -> None:
    waiters, thing = Waiters(), Thing()
    waiting = [asyncio.create_task(wait(waiters, f"key{n}", thing)) for n in range(MOST)]
    await asyncio.sleep(1)

    with pytest.raises(Problem):
        await wait(waiters, "another", thing)

    # Who hangs up makes room.
    waiting[0].cancel()
    await asyncio.wait(waiting[:1])
    assert not await wait(waiters, "another", thing, seconds=1)
    await asyncio.gather(*waiting[1:])
