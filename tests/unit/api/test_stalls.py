"""When a connection whose client does not take its answers is cut."""

import asyncio

import pytest

from dispatcher.api.stalls import StallWatch

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]

STRETCH = 10.0


class Clogged(asyncio.Transport):
    """A transport with something left over, of which the test takes."""

    def __init__(self, n_left: int) -> None:
        super().__init__()
        self.n_left = n_left
        self.high: int | None = None
        self.is_aborted = False
        self.closing = False

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high = high

    def get_write_buffer_size(self) -> int:
        return self.n_left

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.is_aborted = True


async def test_who_takes_nothing_is_cut_after_a_stretch() -> None:
    transport = Clogged(1)
    StallWatch(transport, STRETCH).begin()

    await asyncio.sleep(STRETCH - 1)
    early = transport.is_aborted
    await asyncio.sleep(2)

    assert (early, transport.is_aborted, transport.high) == (False, True, 0)


async def test_who_takes_a_large_answer_slowly_gets_it_whole() -> None:
    transport = Clogged(5_000_000)
    watch = StallWatch(transport, STRETCH)
    watch.begin()

    while transport.n_left > 0:
        await asyncio.sleep(1)
        transport.n_left -= 100_000
    watch.end()
    await asyncio.sleep(2 * STRETCH)

    assert not transport.is_aborted


async def test_who_takes_it_byte_by_byte_is_cut() -> None:
    transport = Clogged(5_000_000)
    StallWatch(transport, STRETCH).begin()

    for _ in range(11):
        await asyncio.sleep(1)
        transport.n_left -= 1

    assert transport.is_aborted


async def test_each_time_begins_anew() -> None:
    transport = Clogged(1)
    watch = StallWatch(transport, STRETCH)

    for _ in range(5):
        watch.begin()
        await asyncio.sleep(STRETCH - 1)
        watch.end()

    assert not transport.is_aborted


async def test_a_session_is_let_be_until_its_connection_is_to_close() -> None:
    transport = Clogged(1)
    watch = StallWatch(transport, STRETCH)
    watch.has_session = True
    watch.begin()

    await asyncio.sleep(10 * STRETCH)
    during = transport.is_aborted
    transport.closing = True
    await asyncio.sleep(STRETCH)

    assert (during, transport.is_aborted) == (False, True)
