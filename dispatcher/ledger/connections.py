"""Connections to Postgres: one dedicated link per hot job, one small pool for everything else.

No pool stands in the hot path: six links (see `Links`) of one statement at a time each, so that a slow API query can
never delay a settlement. Every statement is one implicit transaction, one round trip, under a deadline shorter than the
lease. A connection whose statement timed out or was canceled is dead: it is terminated, never closed politely (a close
can wait for ever on a server that does not answer).
"""

import asyncio
import datetime as dt
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import lru_cache, partial
from types import TracebackType
from typing import Any, Final, TypeVar

import asyncpg
import structlog
from asyncpg.connect_utils import SessionAttribute
from asyncpg.protocol import protocol as _driver

from dispatcher.kit import clock
from dispatcher.ledger.faults import DEMOTED, DRIVER_FAULTS, UNKNOWN_FAULTS, no_connection, sqlstate_of, translate
from dispatcher.ledger.loans import Loans, take_turn
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.errors import PoisonBatch, Unavailable

T = TypeVar("T")

_log = structlog.get_logger("ledger")

# The driver asks abstract base classes about every element of every array whether it is an array itself, which takes
# four times as long as encoding it. A look for lists tells as much, once the tuples among the arguments are lists.
_driver.IterableABC = list  # type: ignore[attr-defined]


def _encodable(arguments: Iterable[object]) -> list[object]:
    return [list(argument) if type(argument) is tuple else argument for argument in arguments]


STATEMENT_SECONDS: Final = 4.0
"""Server-side limit of one statement; a third of the default lease."""

_CLIENT_SECONDS: Final = STATEMENT_SECONDS + 1.0
_CONNECT_SECONDS: Final = 3.0
_START_SECONDS: Final = 30.0
_AGAIN_SECONDS: Final = 0.2
AS_IT_IS: Final[Mapping[str, str]] = {}
"""The planner's settings as the server has them."""

HOT: Final = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""The hot statements look up single rows by index, always, by a plan that is kept: to plan over the tables of every day
takes longer than to run it. Left to itself the planner reads the whole delivery table whenever its statistics say that
it is empty, as they do after every drained backlog."""

LISTED: Final = {**HOT, "enable_bitmapscan": "off"}
"""Pages are read in the order of an index, whose rows nobody sorts."""


AT_ONCE: Final = 2
"""Single statements of a pool that run at the same time."""

LONG_SECONDS: Final = 0.1
"""After so long a statement gives up its turn: small ones, of whoever else there is, need not wait for its end."""

_EPOCH: Final = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_MICROSECOND: Final = dt.timedelta(microseconds=1)
_INFINITE: Final = {
    (2**63 - 1,): dt.datetime.max.replace(tzinfo=dt.UTC),
    (-(2**63),): dt.datetime.min.replace(tzinfo=dt.UTC),
}
"""The driver takes the calendar's first and last microsecond for infinities, and so does what it wrote and reads."""
_INFINITIES: Final = {instant: since_epoch for since_epoch, instant in _INFINITE.items()}


# The driver takes four times as long by itself. A page has a hundred instants, a batch five hundred, and most of them
# were seen before.
@lru_cache(8_192)
def _instant(since_epoch: tuple[int]) -> dt.datetime:
    return _INFINITE.get(since_epoch) or _EPOCH + dt.timedelta(0, 0, since_epoch[0])


@lru_cache(8_192)
def _since_epoch(instant: dt.datetime) -> tuple[int]:
    return _INFINITIES.get(instant) or ((instant - _EPOCH) // _MICROSECOND,)


def new_tag() -> str:
    """Return the end of the name that the sessions of one process bear."""
    return secrets.token_hex(8)


def _settings(name: str, planning: Mapping[str, str]) -> dict[str, str]:
    return {
        "application_name": f"dispatcher-{name}",
        # Of a client that is gone without a word a session lives on, locks and all, for a quarter of an hour otherwise.
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "3",
        "tcp_user_timeout": "20000",
        "timezone": "UTC",
        "statement_timeout": f"{int(STATEMENT_SECONDS * 1000)}",
        "lock_timeout": "2000",
        "idle_in_transaction_session_timeout": "10000",
        "jit": "off",
        **planning,
    }


async def connect(url: str, name: str, *, planning: Mapping[str, str] = AS_IT_IS) -> asyncpg.Connection:
    """Open one connection for the job `name`; the caller terminates it. `planning` are the planner's settings.

    Raises:
        Unavailable: the server cannot be reached or does not let us in, with its reason.
    """
    try:
        return await asyncpg.connect(
            url,
            timeout=_CONNECT_SECONDS,
            command_timeout=_CLIENT_SECONDS,
            server_settings=_settings(name, planning),
            target_session_attrs=SessionAttribute.read_write,
        )
    except DRIVER_FAULTS as fault:
        raise no_connection(fault) from fault


async def _connect_for_instants(url: str, name: str, *, planning: Mapping[str, str]) -> asyncpg.Connection:
    """Open a connection that is quick at instants; errors as `connect`."""
    connection = await connect(url, name, planning=planning)
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            await connection.set_type_codec(
                "timestamptz", schema="pg_catalog", encoder=_since_epoch, decoder=_instant, format="tuple"
            )
    except BaseException as fault:
        connection.terminate()
        if isinstance(fault, DRIVER_FAULTS):
            raise no_connection(fault) from fault
        raise
    return connection


async def patiently(work: Callable[[], Awaitable[T]], *, seconds: float = _START_SECONDS) -> T:
    """Do something that needs Postgres, again and again for `seconds`; then Unavailable passes."""
    give_up = clock.mono() + seconds
    while True:
        try:
            return await work()
        except Unavailable as fault:
            if clock.mono() > give_up:
                raise
            _log.warning("postgres_awaited", reason=str(fault))
            await asyncio.sleep(_AGAIN_SECONDS)


class Link:
    """One connection for one hot job, opened again after every fault; one statement at a time.

    Own it with `aclose`. `on_lost` is called (no arguments) whenever a statement's outcome became unknown. `tag` tells
    the sessions of one process from others'; by it whoever takes the process over ends them.
    """

    def __init__(self, url: str, name: str, *, tag: str = "", on_lost: Callable[[], None] | None = None) -> None:
        self.tag: Final = tag
        self._url = url
        self._name = f"{name}-{tag}" if tag else name
        self._on_lost = on_lost
        self._connection: asyncpg.Connection | None = None
        self._turn = asyncio.Lock()
        self.round_trips = 0
        """Statements sent since the start; for the benchmark's round trips per delivery."""

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run the named statement and return its rows.

        Raises:
            Unavailable: its outcome is unknown or it was refused for now; the connection is gone.
            PoisonBatch: an argument is refused for what it holds; nothing was written.

        On cancel the connection is terminated and the outcome is unknown.
        """
        return await self._run(statement, lambda c: c.fetch(STATEMENTS[statement], *_encodable(arguments)))

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record:
        """Run the named statement and return its single row; errors as `fetch`."""
        rows = await self.fetch(statement, *arguments)
        return rows[0]

    async def transaction(self, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        """Run `work` in one READ COMMITTED transaction; errors as `fetch`."""

        async def run(connection: asyncpg.Connection) -> T:
            async with connection.transaction():
                return await work(connection)

        return await self._run("transaction", run)

    async def _run(self, statement: str, work: Callable[[asyncpg.Connection], Awaitable[T]]) -> T:
        async with self._turn:
            connection = self._connection
            if connection is None or connection.is_closed():
                connection = await _connect_for_instants(self._url, self._name, planning=HOT)
                self._connection = connection
            self.round_trips += 1
            try:
                return await work(connection)
            except BaseException as fault:
                translated = translate(fault, statement)
                if not isinstance(translated, PoisonBatch):
                    self._drop()
                if translated is fault:
                    raise
                raise translated from fault

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None
        if self._on_lost is not None:
            self._on_lost()

    async def aclose(self) -> None:
        """Terminate the connection; a statement in flight fails with Unavailable."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None


class Session:
    """Named statements over one borrowed connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Return the rows of the named statement."""
        rows: list[asyncpg.Record] = await self._connection.fetch(STATEMENTS[statement], *_encodable(arguments))
        return rows

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record | None:
        """Return the first row of the named statement, None when there is none."""
        row: asyncpg.Record | None = await self._connection.fetchrow(STATEMENTS[statement], *_encodable(arguments))
        return row

    async def execute(self, statement: str, *arguments: object) -> str:
        """Run the named statement and return its command tag."""
        tag: str = await self._connection.execute(STATEMENTS[statement], *_encodable(arguments))
        return tag

    def transaction(self) -> AbstractAsyncContextManager[None]:
        """Return a transaction: it commits on a clean exit and rolls back otherwise."""
        begun: AbstractAsyncContextManager[None] = self._connection.transaction()
        return begun


class _Loan:
    """A session on a borrowed connection for the time of a block; what it meets is told in our words."""

    __slots__ = ("_connection", "_loans", "_statement")

    def __init__(self, loans: Loans, statement: str) -> None:
        self._loans = loans
        self._statement = statement

    async def __aenter__(self) -> Session:
        try:
            self._connection = await self._loans.borrow(seconds=_CONNECT_SECONDS)
        except TimeoutError as fault:
            raise translate(fault, self._statement) from fault
        return Session(self._connection)

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if fault is None:
            self._loans.give_back(self._connection, is_sound=True)
            return
        is_demoted = sqlstate_of(fault)[:2] in DEMOTED
        # A statement that was cut, or of which the driver lost track, may still run.
        is_cut = not isinstance(fault, Exception) or isinstance(fault, UNKNOWN_FAULTS)
        self._loans.give_back(self._connection, is_sound=not (is_cut or is_demoted))
        if is_demoted:
            self._loans.forget()
        translated = translate(fault, self._statement)
        # What an argument holds is the caller's matter here: a unique key that is taken has a meaning.
        if translated is not fault and not isinstance(translated, PoisonBatch):
            raise translated from fault


class _Turn:
    """A turn for the time of a block, of those there are for single statements; given up before a long one's end."""

    __slots__ = ("_giving_up", "_statement", "_turns")

    def __init__(self, turns: asyncio.Semaphore, statement: str) -> None:
        self._turns = turns
        self._statement = statement
        self._giving_up: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> None:
        try:
            await take_turn(self._turns, seconds=_CONNECT_SECONDS)
        except TimeoutError as fault:
            raise translate(fault, self._statement) from fault
        self._giving_up = asyncio.get_running_loop().call_later(LONG_SECONDS, self._give_up)

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._giving_up is not None:
            self._giving_up.cancel()
            self._give_up()

    def _give_up(self) -> None:
        self._giving_up = None
        self._turns.release()


class _Place:
    """A place for the time of a block, of those that a part of a pool has; the whole has none to take."""

    __slots__ = ("_places",)

    def __init__(self, places: asyncio.Semaphore | None) -> None:
        self._places = places

    async def __aenter__(self) -> None:
        if self._places is None:
            return
        try:
            await take_turn(self._places, seconds=_CONNECT_SECONDS)
        except TimeoutError as fault:
            message = "the caller has as many statements under way as it may have"
            raise Unavailable(message, why="too many requests of this account are under way") from fault

    async def __aexit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._places is not None:
            self._places.release()


async def _connect_pool(url: str) -> asyncpg.Connection:
    return await _connect_for_instants(url, "pool", planning=LISTED)


class Pool:
    """A few connections shared by the API and the command line; never by the hot path.

    Of single statements, such as pages of lists, two run at a time: each keeps a core of Postgres busy that settlements
    wait for, and each further connection plans them all for itself. One that takes long is not waited for. Transactions
    have connections besides. `portion` gives a part of it to one caller, that the rest may be left to others.
    """

    def __init__(
        self, loans: Loans, *, turns: asyncio.Semaphore | None = None, places: asyncio.Semaphore | None = None
    ) -> None:
        self._loans = loans
        self._turns = turns or asyncio.Semaphore(AT_ONCE)
        self._places = places

    @classmethod
    async def open(cls, url: str, *, size: int = 5) -> "Pool":
        """Open a pool of at most `size` connections; the caller owns it and calls `aclose`.

        Raises:
            Unavailable: the server cannot be reached.
        """
        loans = Loans(partial(_connect_pool, url), most=size)
        loans.give_back(await loans.borrow(seconds=_CONNECT_SECONDS), is_sound=True)
        return cls(loans)

    def portion(self, most: int) -> "Pool":
        """Return a pool that has at most `most` of these connections at a time; whoever owns this one closes them.

        Who finds that many in use waits in turn, for three seconds at most, and is Unavailable then. That comes first:
        who waits here is in nobody else's way.
        """
        return Pool(self._loans, turns=self._turns, places=asyncio.Semaphore(most))

    async def fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        """Run the named statement on a free connection and return its rows; Unavailable when away."""
        async with _Place(self._places), _Turn(self._turns, statement), _Loan(self._loans, statement) as session:
            return await session.fetch(statement, *arguments)

    async def fetchrow(self, statement: str, *arguments: object) -> asyncpg.Record | None:
        """Run the named statement and return its first row or None; Unavailable when away."""
        async with _Place(self._places), _Turn(self._turns, statement), _Loan(self._loans, statement) as session:
            return await session.fetchrow(statement, *arguments)

    async def execute(self, statement: str, *arguments: object) -> str:
        """Run the named statement and return its command tag; Unavailable when away."""
        async with _Place(self._places), _Turn(self._turns, statement), _Loan(self._loans, statement) as session:
            return await session.execute(statement, *arguments)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Session]:
        """Give a session inside one transaction; commits on a clean exit, rolls back otherwise."""
        async with _Place(self._places), _Loan(self._loans, "transaction") as session, session.transaction():
            yield session

    async def aclose(self) -> None:
        """Terminate every connection at once."""
        self._loans.close()


class Links:
    """The six dedicated connections of one process. `lost` is called when a statement's outcome became unknown."""

    def __init__(self, url: str) -> None:
        self.lost: Callable[[], None] = lambda: None
        tag = new_tag()
        self.intake = Link(url, "intake", tag=tag, on_lost=lambda: self.lost())  # noqa: PLW0108 - `lost` is set later
        self.settlement = Link(url, "settlement", tag=tag)
        self.claims = Link(url, "claims", tag=tag, on_lost=lambda: self.lost())  # noqa: PLW0108 - the same
        self.hosts = Link(url, "hosts", tag=tag)
        self.replays = Link(url, "replays", tag=tag)
        self.control = Link(url, "control", tag=tag)

    async def aclose(self) -> None:
        """Terminate all six."""
        for link in (self.intake, self.settlement, self.claims, self.hosts, self.replays, self.control):
            await link.aclose()
