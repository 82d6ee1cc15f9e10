"""Batches grow with load, nothing is lost on the way to Postgres, poison harms only itself."""

import asyncio
from collections.abc import Collection, Sequence

import pytest
from structlog.testing import capture_logs

from dispatcher.model.delivery import Settlement
from dispatcher.model.errors import Fenced, PoisonBatch, Unavailable
from dispatcher.model.news import News
from dispatcher.model.outcome import OutcomeKind, Verdict, VerdictKind
from dispatcher.recording import Recorder
from tests.support.builders import a_delivery, a_settlement, an_outcome, some_news

pytestmark = [pytest.mark.looptime, pytest.mark.asyncio(loop_scope="function")]


class Book:
    """A ledger that keeps what it is told, as slowly and as badly as the test wishes."""

    def __init__(
        self,
        *,
        seconds: float = 0.005,
        faults: Sequence[Exception] = (),
        poison: Collection[int] = (),
        tells: bool = False,
    ) -> None:
        self.batches: list[list[Settlement]] = []
        self.tried: list[list[Settlement]] = []
        self.first_successes: set[tuple[int, int]] = set()
        self._seconds = seconds
        self._faults = list(faults)
        self._poison = set(poison)
        self._tells = tells

    async def settle(
        self, batch: Sequence[Settlement], *, first_successes: Collection[tuple[int, int]] = ()
    ) -> Sequence[News]:
        self.tried.append(list(batch))
        await asyncio.sleep(self._seconds)
        if self._faults:
            raise self._faults.pop(0)
        if any(s.delivery.delivery_id in self._poison and s.outcome and s.outcome.reason for s in batch):
            raise PoisonBatch("22P05")
        self.batches.append(list(batch))
        self.first_successes |= set(first_successes)
        return [some_news()] if self._tells else []

    @property
    def written(self) -> list[Settlement]:
        return [s for batch in self.batches for s in batch]


class Meter:
    """Counts settled batches and keeps news."""

    def __init__(self) -> None:
        self.n = 0
        self.news: list[News] = []

    def settled(self, n_settlements: int, seconds: float) -> None:
        assert seconds >= 0
        self.n += n_settlements

    def announced(self, news: Sequence[News]) -> None:
        self.news += news


async def write_all(recorder: Recorder) -> None:
    recorder.close()
    async with asyncio.timeout(60):
        await recorder.run()


async def test_everything_taken_is_written_once_in_order() -> None:
    book, meter = Book(), Meter()
    recorder = Recorder(book, meter)
    settlements = [a_settlement() for _ in range(1_234)]

    for settlement in settlements:
        recorder.settle(settlement)
    await write_all(recorder)

    assert book.written == settlements
    assert max(len(batch) for batch in book.batches) == 500
    assert meter.n == 1_234


async def test_a_lone_settlement_is_written_within_the_linger_time() -> None:
    book = Book(seconds=0.0)
    recorder = Recorder(book, Meter())
    loop = asyncio.get_running_loop()
    began = loop.time()

    recorder.settle(a_settlement())
    task = loop.create_task(recorder.run())
    while not book.batches:
        await asyncio.sleep(0.001)

    assert loop.time() - began <= 0.03
    task.cancel()


@pytest.mark.parametrize(("per_second", "fewest", "most"), [(1_000, 15, 35), (5_000, 350, 500)])
async def test_a_busy_process_waits_for_fuller_batches(per_second: int, fewest: int, most: int) -> None:
    book = Book(seconds=0.005)
    recorder = Recorder(book, Meter())
    task = asyncio.get_running_loop().create_task(recorder.run())

    for _ in range(per_second // 2):
        recorder.settle(a_settlement())
        await asyncio.sleep(1 / per_second)

    sizes = [len(batch) for batch in book.batches][2:]
    assert fewest <= min(sizes)
    assert max(sizes) <= most
    task.cancel()


async def test_settlements_that_come_during_a_flush_share_the_next_one() -> None:
    book = Book(seconds=1.0)
    recorder = Recorder(book, Meter())
    task = asyncio.get_running_loop().create_task(recorder.run())

    for _ in range(90):
        recorder.settle(a_settlement())
        await asyncio.sleep(0.01)
    await asyncio.sleep(5)

    assert len(book.batches) == 2
    task.cancel()


async def test_a_lost_answer_is_followed_by_the_very_same_batch() -> None:
    book = Book(faults=[Unavailable("gone"), Unavailable("gone")])
    recorder = Recorder(book, Meter())
    settlements = [a_settlement() for _ in range(10)]

    for settlement in settlements:
        recorder.settle(settlement)
    await write_all(recorder)

    assert book.tried == [settlements] * 3
    assert book.written == settlements


async def test_a_poisoned_settlement_is_written_without_its_details_and_the_rest_as_it_is() -> None:
    bad = a_delivery()
    book = Book(poison={bad.delivery_id})
    recorder = Recorder(book, Meter())
    guilty = a_settlement(bad, outcome=an_outcome(OutcomeKind.TLS_ERROR, reason="\x00"))
    others = [a_settlement() for _ in range(20)]

    for settlement in [*others[:7], guilty, *others[7:]]:
        recorder.settle(settlement)
    await write_all(recorder)

    assert sorted(s.delivery.delivery_id for s in book.written) == sorted(
        s.delivery.delivery_id for s in [*others, guilty]
    )
    assert [s.outcome.reason for s in book.written if s.delivery.delivery_id == bad.delivery_id and s.outcome] == [""]


async def test_a_settlement_that_is_refused_without_its_details_too_still_moves_its_delivery_on() -> None:
    class Strict(Book):
        async def settle(
            self, batch: Sequence[Settlement], *, first_successes: Collection[tuple[int, int]] = ()
        ) -> Sequence[News]:
            if any(s.outcome is not None for s in batch):
                raise PoisonBatch("22008")
            return await super().settle(batch, first_successes=first_successes)

    book = Strict()
    recorder = Recorder(book, Meter())
    verdict = Verdict(VerdictKind.RETRY, 2, 60.0)

    recorder.settle(a_settlement(verdict=verdict))
    with capture_logs() as logged:
        await write_all(recorder)

    assert [s.verdict for s in book.written] == [verdict._replace(kind=VerdictKind.PARKED)]
    assert [one["event"] for one in logged] == ["settlement_refused"]


async def test_what_is_under_way_to_the_database_is_not_written_yet() -> None:
    book = Book(seconds=1.0)
    recorder = Recorder(book, Meter())
    task = asyncio.get_running_loop().create_task(recorder.run())

    recorder.settle(a_settlement())
    await asyncio.sleep(0.5)
    under_way = recorder.n_waiting
    await asyncio.sleep(1)

    assert (len(book.tried), under_way, recorder.n_waiting) == (1, 1, 0)
    task.cancel()


async def test_being_taken_over_ends_the_recorder() -> None:
    book = Book(faults=[Fenced("taken over")])
    recorder = Recorder(book, Meter())

    recorder.settle(a_settlement())
    recorder.close()

    with pytest.raises(Fenced):
        await recorder.run()


async def test_lanes_are_told_to_wait_from_the_high_mark_until_the_low_one() -> None:
    recorder = Recorder(Book(seconds=0.1), Meter())
    for _ in range(1_000):
        recorder.settle(a_settlement())
    was_behind = recorder.is_behind

    task = asyncio.get_running_loop().create_task(recorder.run())
    waiting_when_released = 1_000
    while recorder.is_behind:
        waiting_when_released = recorder.n_waiting
        await asyncio.sleep(0.01)

    assert was_behind
    assert 500 <= waiting_when_released <= 1_000
    task.cancel()


async def test_few_results_that_are_large_make_lanes_wait_too_until_half_of_them_are_written() -> None:
    outcome = an_outcome(OutcomeKind.HTTP_5XX, status=500)._replace(body=b"x" * 6_000, headers=((b"a", b"y" * 2_000),))
    large = [a_settlement(a_delivery(body=b"z" * 90_000), outcome=outcome) for _ in range(10)]
    book = Book(seconds=0.1)
    recorder = Recorder(book, Meter(), most_bytes=980_000)

    for settlement in large[:9]:
        recorder.settle(settlement)
    was_behind_early = recorder.is_behind
    recorder.settle(large[9])

    assert not was_behind_early
    assert recorder.is_behind
    assert recorder.held_bytes >= 980_000
    await write_all(recorder)
    assert (recorder.is_behind, recorder.held_bytes) == (False, 0)


async def test_results_under_way_to_postgres_count_until_it_has_answered() -> None:
    recorder = Recorder(Book(seconds=5.0), Meter(), most_bytes=100_000)
    recorder.settle(a_settlement(a_delivery(body=b"z" * 100_000)))
    task = asyncio.get_running_loop().create_task(recorder.run())

    await asyncio.sleep(2.0)
    was_behind = recorder.is_behind
    await asyncio.sleep(5.0)

    assert was_behind
    assert not recorder.is_behind
    task.cancel()


async def test_a_first_success_travels_with_its_settlement() -> None:
    book = Book()
    recorder = Recorder(book, Meter())

    recorder.first_success(5, 2)
    recorder.settle(a_settlement(a_delivery(endpoint_id=5, host_id=1)))
    await write_all(recorder)
    assert book.first_successes == set()
    recorder.settle(a_settlement(a_delivery(endpoint_id=5, host_id=2)))
    await write_all(recorder)

    assert book.first_successes == {(5, 2)}


async def test_news_of_a_written_batch_reach_the_journal() -> None:
    book, meter = Book(faults=[Unavailable("gone")], tells=True), Meter()
    recorder = Recorder(book, meter)

    recorder.settle(a_settlement())
    await write_all(recorder)

    assert meter.news == [some_news()]
