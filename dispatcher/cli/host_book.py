"""Hosts straight in the database, as the API shows them."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import typer

from dispatcher.cli.database import with_pool
from dispatcher.cli.listing import collect
from dispatcher.model.errors import DispatcherError

if TYPE_CHECKING:
    from dispatcher.ledger.connections import Pool
    from dispatcher.ledger.hosts import HostState


def rows(limit: int, *, every: bool) -> list[dict[str, Any]]:
    """Return hosts by name, one more than `limit` when there are more."""
    from dispatcher.ledger.hosts import HostBook

    async def work(pool: "Pool") -> "list[HostState]":
        book = HostBook(pool)
        return await collect(
            lambda last, n: book.page(after="" if last is None else last.authority, limit=n), limit=limit, every=every
        )

    return [_shown(found) for found in with_pool(work)]


def read(host: str) -> dict[str, Any]:
    """Return one host, with the number of deliveries that wait for it. Raises DispatcherError when it is unknown."""
    from dispatcher.ledger.hosts import HostBook

    async def work(pool: "Pool") -> dict[str, Any]:
        book = HostBook(pool)
        return {**_shown(await _found(book, host)), "waiting": await book.n_waiting(host)}

    return with_pool(work)


def change(host: str, own: Mapping[str, Any], *, defaults: bool, resume: bool) -> dict[str, Any]:
    """Set limits of a host's `own`, or the configured ones, end its pause; return it as `read` does."""
    from dataclasses import replace

    from dispatcher.ledger.hosts import HostBook
    from dispatcher.policy.pacing import limits_fault
    from dispatcher.settings import load

    async def work(pool: "Pool") -> None:
        book = HostBook(pool)
        now = (await _found(book, host)).limits
        limits = load(os.environ, required=False).limits.host_limits() if defaults else replace(now, **own)
        if (own or defaults) and (fault := limits_fault(limits.rate, limits.burst)):
            raise typer.BadParameter(fault, param_hint="--burst")
        if own or defaults:
            await book.set_limits(host, limits, are_own=bool(own))
        if resume:
            await book.resume(host)

    with_pool(work)
    return read(host)


async def _found(book: Any, host: str) -> "HostState":
    found: HostState | None = await book.find(host)
    if found is None:
        message = (
            f"no endpoint has the host {host} or had it lately; `dispatcher hosts list` shows those that there are"
        )
        raise DispatcherError(message)
    return found


def _shown(state: "HostState") -> dict[str, Any]:
    return {
        "host": state.authority,
        "object": "host",
        "rate": state.limits.rate,
        "burst": state.limits.burst,
        "in_flight": state.limits.in_flight,
        "own_limits": state.has_own_limits,
        "scale": round(state.scale, 4),
        "paused_seconds": round(state.paused_seconds, 1),
        "endpoints": state.n_endpoints,
    }
