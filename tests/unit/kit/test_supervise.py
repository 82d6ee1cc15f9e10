"""Tasks that end: by themselves, by their bound, by their own hand."""

import asyncio

import pytest

from dispatcher.kit.stopping import StopRequest
from dispatcher.kit.supervise import finish_unless_set, finish_within, sleep_until_set, spawn

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]


async def test_a_task_that_ends_in_time_is_told_so() -> None:
    assert await finish_within(spawn(asyncio.sleep(1), name="short"), 5)


async def test_a_task_that_outlasts_its_bound_is_canceled() -> None:
    task = spawn(asyncio.sleep(3_600), name="long")

    assert not await finish_within(task, 5)
    assert task.cancelled()


async def test_a_tasks_own_fault_is_raised_and_its_own_cancel_is_not() -> None:
    async def fall() -> None:
        raise ZeroDivisionError

    async def give_up() -> None:
        raise asyncio.CancelledError

    with pytest.raises(ZeroDivisionError):
        await finish_within(spawn(fall(), name="falls"), 5)
    assert await finish_within(spawn(give_up(), name="gives-up"), 5)


async def test_a_sleep_ends_with_its_event() -> None:
    event = asyncio.Event()
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert not await sleep_until_set(event, 3)
    loop.call_later(1, event.set)
    assert await sleep_until_set(event, 3)

    assert loop.time() - began == pytest.approx(4, abs=0.1)


async def test_asking_twice_presses() -> None:
    stop = StopRequest()

    stop.ask()
    assert (stop.asked.is_set(), stop.pressed.is_set()) == (True, False)
    stop.ask()

    assert stop.pressed.is_set()


async def test_a_task_that_will_not_end_is_not_waited_for_without_end() -> None:
    ended = asyncio.Event()

    async def endure() -> None:
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError:
                continue

    task = spawn(endure(), name="stubborn")
    loop = asyncio.get_running_loop()
    began = loop.time()

    assert not await finish_within(task, 5)

    assert loop.time() - began < 7
    ended.set()
    await task


async def test_a_task_is_waited_for_until_the_event_or_the_time_comes() -> None:
    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    assert await finish_unless_set(spawn(asyncio.sleep(1), name="short"), event, 5)
    late = spawn(asyncio.sleep(3_600), name="late")
    assert not await finish_unless_set(late, event, 5)
    loop.call_later(2, event.set)
    unwanted = spawn(asyncio.sleep(3_600), name="unwanted")
    assert not await finish_unless_set(unwanted, event)

    assert late.cancelled()
    assert unwanted.cancelled()
    assert loop.time() == 8


async def test_a_caller_that_is_canceled_takes_the_task_along() -> None:
    task = spawn(asyncio.sleep(3_600), name="task")
    caller = spawn(finish_unless_set(task, asyncio.Event()), name="caller")
    await asyncio.sleep(1)

    caller.cancel()
    await asyncio.wait({caller})

    assert caller.cancelled()
    assert task.cancelled()
