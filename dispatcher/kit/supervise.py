"""Tasks with a name, an owner and an end.

A task that nobody holds can vanish in mid-flight, and one that nobody watches can fail unseen: `spawn` holds it, its
caller watches it.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

_held: set[asyncio.Task[Any]] = set()


def spawn(work: Coroutine[Any, Any, T], *, name: str) -> asyncio.Task[T]:
    """Start `work` as a named task that is kept alive until it ends; the caller awaits or cancels it."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    _held.add(task)
    task.add_done_callback(_held.discard)
    return task


async def finish_within(task: asyncio.Task[Any], seconds: float) -> bool:
    """Wait for `task`, cancel it when `seconds` are over; tell whether it ended by itself.

    The task's own exception is raised. A cancel that the task did to itself is not ours and is ignored.
    """
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.cancel()
        await asyncio.wait({task}, timeout=1.0)
        return False
    if not task.cancelled() and (fault := task.exception()) is not None:
        raise fault
    return True


async def finish_unless_set(task: asyncio.Task[Any], event: asyncio.Event, seconds: float | None = None) -> bool:
    """Wait for `task` until `event` is set or `seconds` are over, then cancel it; tell whether it ended by itself.

    The task's own exception is raised. A cancel of the caller cancels the task, too.
    """
    waiting = spawn(event.wait(), name="until-set")
    try:
        await asyncio.wait({task, waiting}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        is_done = task.done()
        if not is_done:
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
    if is_done and not task.cancelled() and (fault := task.exception()) is not None:
        raise fault
    return is_done and not task.cancelled()


async def sleep_until_set(event: asyncio.Event, seconds: float) -> bool:
    """Sleep for `seconds` or until `event` is set, whichever is first; tell whether it is set."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return event.is_set()
    return True
