"""The links of every process, each through a proxy that can spoil it.

    process --+-- proxy of its own --------- Postgres
              +-- proxy of its own --------- broker
              '-- one proxy for each host -- endpoints

The proxies of the hosts are shared, since an endpoint has one address for all; they tell processes apart by the port
that a connection comes from. All proxies run in a thread with a loop of its own: what the run itself does meanwhile,
starting a server for example, delays nobody's bytes.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from random import Random
from typing import Any, Final, TypeVar

import psutil

from tests.chaos.toxics import SECONDS, Harm, Link, Toxic, spoil, toxics_of
from tests.support.faults import Direction, FaultProxy, Ways

T = TypeVar("T")

_ASK_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.05


class Links:
    """The proxies of all processes. Called from the run's thread; made by `open_links`.

    `living` returns the ids of the processes by name.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, living: Callable[[], Mapping[str, int]]) -> None:
        self.harms: list[Harm] = []
        self.worst_pause_seconds = 0.0
        """Longest that the proxies themselves held everything up: more than a second of it is a toxic of nobody's."""
        self._loop = loop
        self._living = living
        # Touched in the loop's thread.
        self._own: dict[str, dict[Link, FaultProxy]] = {}
        self._ways: dict[str, Ways] = {}
        self._hosts: list[FaultProxy] = []

    def open_hosts(self, hosts: Sequence[str], port: int) -> dict[str, int]:
        """Put a proxy before each host of the endpoints, at its own address; return the proxies' ports."""

        async def up() -> dict[str, int]:
            self._hosts = [FaultProxy(host, port, listen=host, ways_of=self._ways_of) for host in hosts]
            for proxy in self._hosts:
                await proxy.up()
            return {proxy.listen: proxy.port for proxy in self._hosts}

        return self._ask(up())

    def open(self, name: str, ports: Mapping[Link, int]) -> dict[Link, int]:
        """Make the links of a new process to the servers on `ports`; return the ports of its proxies."""

        async def up() -> dict[Link, int]:
            own = {link: FaultProxy("127.0.0.1", port, kafka=link is Link.KAFKA) for link, port in ports.items()}
            for proxy in own.values():
                await proxy.up()
            self._own[name] = own
            self._ways[name] = (Direction(), Direction())
            return {link: proxy.port for link, proxy in own.items()}

        return self._ask(up())

    def close(self, name: str) -> None:
        """Close the links of a process that has ended."""
        self._ask(self._down(self._own.pop(name, {}).values()))

    def close_all(self) -> None:
        """Close every link."""
        self._ask(self._down([*self._hosts, *(proxy for own in self._own.values() for proxy in own.values())]))

    async def watch(self) -> None:
        """Measure how late the proxies' loop is, until canceled. Runs in its thread."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(_LOOK_SECONDS)
            self.worst_pause_seconds = max(self.worst_pause_seconds, time.monotonic() - began - _LOOK_SECONDS)

    async def spoil(self, name: str, chance: Random) -> Harm | None:
        """Spoil one link of a process for a while and return what was done; None when the process has none."""
        link = chance.choice(list(Link))
        toxic = chance.choice(toxics_of(link))
        if name not in self._own:
            return None
        began = time.time()
        await self._await(self._spoil(name, link, toxic, chance))
        harm = Harm(name, link, toxic, began, time.time())
        self.harms.append(harm)
        return harm

    async def cut_off(self, name: str, seconds: float) -> None:
        """Hold back for so long whatever a process and Postgres say to each other."""

        async def hold() -> None:
            proxy = self._own[name][Link.POSTGRES]
            proxy.upstream.stall()
            proxy.downstream.stall()
            try:
                await asyncio.sleep(seconds)
            finally:
                proxy.heal()

        began = time.time()
        await self._await(hold())
        self.harms.append(Harm(name, Link.POSTGRES, Toxic.STALL, began, time.time()))

    async def _spoil(self, name: str, link: Link, toxic: Toxic, chance: Random) -> None:
        proxy = self._own[name].get(link)
        ways = self._ways[name] if proxy is None else (proxy.upstream, proxy.downstream)
        try:
            if proxy is not None and toxic is Toxic.DOWN:
                await proxy.down()
            else:
                spoil(link, ways, toxic, chance)
            await asyncio.sleep(chance.uniform(*SECONDS[toxic]))
        finally:
            # Also when the run ends meanwhile: what is left over then has to get through.
            for way in ways:
                way.heal()
            if proxy is not None and name in self._own:
                await proxy.up()
                if toxic is Toxic.DROP:
                    # What was swallowed is missing in the middle of a conversation: it cannot go on.
                    proxy.reset()

    def _ways_of(self, port: int) -> Ways:
        for name, pid in self._living().items():
            try:
                if any(one.laddr.port == port for one in psutil.Process(pid).net_connections("tcp4")):
                    return self._ways[name]
            except (psutil.Error, KeyError):
                continue
        # It ended while it dialled.
        return Direction(), Direction()

    @staticmethod
    async def _down(proxies: Any) -> None:
        for proxy in proxies:
            await proxy.down()

    def _ask(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ASK_SECONDS)

    async def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


@contextmanager
def open_links(living: Callable[[], Mapping[str, int]]) -> Iterator[Links]:
    """Run the proxies' thread for the length of the block."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="links", daemon=True)
    thread.start()
    links = Links(loop, living)
    watching = asyncio.run_coroutine_threadsafe(links.watch(), loop)
    try:
        yield links
    finally:
        watching.cancel()
        links.close_all()
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_ASK_SECONDS)
        loop.close()
