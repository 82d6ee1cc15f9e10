"""A gate held together or alone."""

import asyncio

import pytest

from dispatcher.kit.gate import Gate

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]


async def hold(gate: Gate, log: list[str], name: str, seconds: float, *, alone: bool = False) -> None:
    """Hold a gate for a while and say when."""
    async with gate.exclusive() if alone else gate.shared():
        log.append(f"+{name}")
        await asyncio.sleep(seconds)
        log.append(f"-{name}")


async def test_many_hold_it_together_and_one_waits_to_hold_it_alone() -> None:
    gate, log = Gate(), list[str]()

    async with asyncio.TaskGroup() as group:
        group.create_task(hold(gate, log, "a", 2))
        group.create_task(hold(gate, log, "b", 3))
        await asyncio.sleep(1)
        group.create_task(hold(gate, log, "X", 1, alone=True))
        await asyncio.sleep(0.5)
        group.create_task(hold(gate, log, "c", 1))

    assert log == ["+a", "+b", "-a", "-b", "+X", "-X", "+c", "-c"]


async def test_two_who_want_it_alone_take_turns() -> None:
    gate, log = Gate(), list[str]()

    async with asyncio.TaskGroup() as group:
        group.create_task(hold(gate, log, "X", 1, alone=True))
        group.create_task(hold(gate, log, "Y", 1, alone=True))

    assert log == ["+X", "-X", "+Y", "-Y"]


async def test_a_canceled_wait_leaves_the_gate_usable() -> None:
    gate, log = Gate(), list[str]()
    loop = asyncio.get_running_loop()
    holder = loop.create_task(hold(gate, log, "a", 5))
    await asyncio.sleep(1)
    waiter = loop.create_task(hold(gate, log, "X", 1, alone=True))
    await asyncio.sleep(1)

    waiter.cancel()
    await asyncio.wait({waiter})
    async with asyncio.timeout(1):
        await hold(gate, log, "b", 0.5)
    await holder
    async with asyncio.timeout(2):
        await hold(gate, log, "Y", 1, alone=True)

    assert log == ["+a", "+b", "-b", "-a", "+Y", "-Y"]


async def test_shared_passage_that_waited_for_a_canceled_wait_goes_on() -> None:
    gate, log = Gate(), list[str]()
    loop = asyncio.get_running_loop()
    holder = loop.create_task(hold(gate, log, "a", 5))
    await asyncio.sleep(1)
    alone = loop.create_task(hold(gate, log, "X", 1, alone=True))
    await asyncio.sleep(1)
    behind = loop.create_task(hold(gate, log, "b", 1))
    await asyncio.sleep(1)

    alone.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait({alone, behind, holder})

    assert log == ["+a", "+b", "-b", "-a"]


@pytest.mark.parametrize("alone", [True, False])
async def test_a_holder_that_is_canceled_leaves_the_gate_to_others(alone: bool) -> None:
    gate, log = Gate(), list[str]()
    loop = asyncio.get_running_loop()
    holder = loop.create_task(hold(gate, log, "a", 3_600, alone=alone))
    await asyncio.sleep(1)
    waiting = loop.create_task(hold(gate, log, "X", 1, alone=True))
    await asyncio.sleep(1)

    holder.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait({holder, waiting})

    assert log == ["+a", "+X", "-X"]


async def test_a_stream_of_shared_holders_does_not_keep_one_from_holding_it_alone() -> None:
    gate, log = Gate(), list[str]()

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(hold(gate, log, str(number), 1.5))
            await asyncio.sleep(1)
            if number == 3:
                group.create_task(hold(gate, log, "X", 0.1, alone=True))

    assert log.index("+X") < log.index("+4")
