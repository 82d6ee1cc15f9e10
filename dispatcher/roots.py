"""The root tasks of a process: what runs for its whole life, and what it means when one of them ends."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from dispatcher.journal import Journal
from dispatcher.lanes.board import Board
from dispatcher.model.errors import DispatcherError, Fenced


class RootTaskEnded(DispatcherError):
    """A task that should run for ever returned: a bug."""


async def for_ever(name: str, work: Coroutine[Any, Any, None]) -> None:
    """Run what never ends by itself; RootTaskEnded when it does."""
    await work
    message = f"the task {name} ended by itself"
    raise RootTaskEnded(message)


def halt_unless_done(board: Board, task: asyncio.Task[None]) -> None:
    """Let the board start nothing more when a root task fell, or was canceled because another one did."""
    if task.cancelled() or task.exception() is not None:
        board.halt()


def count_fence(journal: Journal, task: asyncio.Task[None]) -> None:
    """Count that this process was taken over, as soon as the first of its root tasks falls for it."""
    if not task.cancelled() and isinstance(task.exception(), Fenced):
        journal.fenced()


def first_of(fault: BaseException) -> BaseException:
    """Return the first exception of a group, however deep: the rest are consequences."""
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault
