"""How far reading is behind: a look at where the partitions end, beside the reading and never in its way.

    lag = end of the log - where reading stands

Both are less simple than they look.

- The end that a fetch brought along is as old as that fetch: while there is no room nothing is fetched, and the lag
  that grows meanwhile is the one that matters. So the broker is asked, once a second, by a task of its own.
- The embedded broker answers that question too low, by all but one record of the last batch, and a fetch rightly;
  Apache Kafka answers it with the end of what may be read, and a fetch with the end of the log. The larger of both is
  right for both; records of a transaction that is still open count as not accepted, which they are.
- The position in Postgres ends behind the last record. Behind that may lie markers of transactions, or records of one
  that was given up, which nobody may read: the library's own position counts them. It is also ahead of Postgres
  while a batch is being accepted, hence it is only believed for the moment between two polls, when everything that
  was polled is accepted, and for as long as Postgres stands where it stood then.
"""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from typing import Final, Protocol

from aiokafka.errors import KafkaError

from dispatcher.intake.consumer import Consumer
from dispatcher.intake.positions import Partition

_LOOK_SECONDS: Final = 1.0


class LagMeter(Protocol):
    """What the look tells the metrics."""

    def lagged(self, lags: Mapping[Partition, int | None]) -> None:
        """Note the lag of each assigned partition, None while its end is unknown."""
        ...


class Lag:
    """Tells how far one consumer is behind. `stands` is where its partitions stand, as the loop keeps it."""

    def __init__(self, meter: LagMeter, stands: Mapping[Partition, int]) -> None:
        self._meter = meter
        self._stands = stands
        self._read: dict[Partition, tuple[int, int]] = {}
        self._ends: dict[Partition, int] = {}

    def note_read(self, consumer: Consumer) -> None:
        """Note how far the library has read. For the moment between two polls: all that was polled is accepted."""
        found = {partition: consumer.read_to(partition) for partition in self._stands}
        self._read = {p: (self._stands[p], at) for p, at in found.items() if at is not None}

    async def watch(self, consumer: Consumer) -> None:
        """Look and tell once a second, until canceled. While Kafka does not answer, the ends it told last count on."""
        self._read, self._ends = {}, {}
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            # A fault is met, and told, by the loop.
            with suppress(KafkaError, OSError, TimeoutError):
                self._ends = await consumer.ends(list(self._stands)) if self._stands else {}
            self._meter.lagged({partition: self._lag(consumer, partition) for partition in self._stands})

    def _lag(self, consumer: Consumer, partition: Partition) -> int | None:
        ends = [end for end in (self._ends.get(partition), consumer.highwater(partition)) if end is not None]
        return max(0, max(ends) - self._read_to(partition)) if ends else None

    def _read_to(self, partition: Partition) -> int:
        at = self._stands[partition]
        stood, read = self._read.get(partition, (at, at))
        return read if stood == at else at
