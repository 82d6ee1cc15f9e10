"""What `dispatcher bench` measures: an embedded dispatcher as a child process, from Kafka to a sink in this process.

producer ─► broker ─► dispatcher ─► sink          latency: from the producer's call to the request received
(here)      (child)   (child)       (here)        drain: from the first request received to the last
"""

import asyncio
import os
import secrets
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import Any, Final, NamedTuple

import aiohttp
import orjson

from dispatcher.cli.client import Api, Profile
from dispatcher.embedded import children
from dispatcher.embedded.counting_sink import CountingSink
from dispatcher.intake.consumer import KafkaSettings
from dispatcher.intake.producer import Producer
from dispatcher.kit import clock
from dispatcher.model.errors import DispatcherError
from dispatcher.model.ids import event_id_of, show_event_id
from dispatcher.policy.samples import SOURCE, SampleRecord, sample_record
from dispatcher.policy.schema_files import load_example, schema_folder

_TYPE: Final = "verification.completed"
_START_SECONDS: Final = 60.0
_STOP_STEPS: Final = ((SIGTERM, 30.0),)
_POLL_SECONDS: Final = 0.05
_CHUNK: Final = 500
_WARM_SECONDS: Final = 1.0
_SETTLED: Final = 'dispatcher_deliveries_total{verdict="delivered"} '

_SETTINGS: Final[Mapping[str, str]] = {
    "HTTP__BIND": "127.0.0.1:0",
    "METRICS__BIND": "127.0.0.1:0",
    "LOG__LEVEL": "warning",
    "LOG__ATTEMPTS": "none",
    # One host gets everything: its limits must not be what is measured.
    "LIMITS__HOST_RATE": "1000000",
    "LIMITS__HOST_BURST": "100000",
}

Tell = Callable[[int, str], None]
"""Told how many events of the drain have arrived, and what is being done."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure. `seconds` bound both parts together; what has not arrived by then is left out."""

    n_events: int
    per_second: float
    seconds: float


class Figures(NamedTuple):
    """What was measured. `cpu_seconds_per_1000` is the dispatcher process alone; None where Linux does not tell it."""

    deliveries: int
    seconds: float
    deliveries_per_second: float
    cpu_seconds_per_1000: float | None
    p50_ms: float | None
    p99_ms: float | None
    latency_events: int
    latency_events_per_second: float
    event_bytes: int
    cores: int
    is_complete: bool


class Sample(NamedTuple):
    """One event ready to be published, and the id that its request will carry."""

    event_id: str
    record: SampleRecord


@contextmanager
def embedded_dispatcher(folder: Path) -> Iterator[dict[str, Any]]:
    """Run a dispatcher with servers of its own on data in `folder`; give what its ready file says. Main thread only.

    Raises:
        DispatcherError: it did not come up; the message ends with its last words.
    """
    ready_file = folder / "ready.json"
    settings = {f"DISPATCHER_{name}": value for name, value in {**_SETTINGS, "DATA_DIR": str(folder / "data")}.items()}
    plain = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    log = children.open_log(folder / "dispatcher.log")
    words = [sys.executable, "-m", "dispatcher", "run", "--embedded", "--ready-file", str(ready_file)]
    child = children.spawn(children.Command(words, Path.cwd(), log, SIGTERM, environment={**plain, **settings}))
    try:
        give_up = time.monotonic() + _START_SECONDS
        while not ready_file.exists():
            if child.poll() is not None or time.monotonic() > give_up:
                message = f"the embedded dispatcher did not start: {children.last_words(log)}"
                raise DispatcherError(message)
            time.sleep(_POLL_SECONDS)
        yield orjson.loads(ready_file.read_bytes())
    finally:
        children.stop(child, _STOP_STEPS)
        os.close(log)


async def measure(ready: Mapping[str, Any], plan: Plan, tell: Tell) -> Figures:
    """Measure latency at a steady rate, then a drain of everything at once.

    Raises:
        DispatcherError: nothing arrived, or the dispatcher went away.
    """
    kafka = KafkaSettings(ready["kafka_bootstrap"], tuple(ready["topics"]), "bench")
    samples = make_samples(plan.n_events + int(plan.per_second * plan.seconds), ready["account_id"])
    drained, steady = samples[: plan.n_events], samples[plan.n_events :]
    async with CountingSink() as sink, Producer(kafka) as producer, aiohttp.ClientSession() as session:
        await asyncio.to_thread(_register, ready, sink.url)
        bench = Bench(ready, sink, producer, session, tell)
        give_up = time.monotonic() + plan.seconds
        waits = await bench.steady(steady, plan.per_second, seconds=min(5.0, plan.seconds / 4))
        took, cpu = await bench.drain(drained, give_up)
    n = sink.n_requests
    if not n or not took:
        message = f"nothing was delivered within {plan.seconds:g} s; try again with more --seconds"
        raise DispatcherError(message)
    return Figures(
        n,
        round(took, 2),
        round(n / took, 1),
        None if cpu is None else round(cpu / n * 1_000, 3),
        percentile_ms(waits, 0.5),
        percentile_ms(waits, 0.99),
        len(waits),
        plan.per_second,
        len(samples[0].record.value),
        os.cpu_count() or 1,
        n >= plan.n_events,
    )


class Bench:
    """One measurement under way."""

    def __init__(
        self,
        ready: Mapping[str, Any],
        sink: CountingSink,
        producer: Producer,
        session: aiohttp.ClientSession,
        tell: Tell,
    ) -> None:
        self._topic: str = ready["topics"][0]
        self._pid: int = ready["pid"]
        self._metrics_url: str = ready["metrics_url"]
        self._sink = sink
        self._producer = producer
        self._session = session
        self._tell = tell

    async def steady(self, samples: Sequence[Sample], per_second: float, *, seconds: float) -> list[float]:
        """Publish at a steady rate and return, ascending, the seconds until each request came; the start left out."""
        sent: dict[str, float] = {}
        began = time.monotonic()
        for n, sample in enumerate(samples[: max(1, int(per_second * seconds))]):
            await asyncio.sleep(max(0.0, began + n / per_second - time.monotonic()))
            if time.monotonic() - began > 2 * seconds:
                break
            self._tell(0, f"latency at {per_second:g} events per second")
            sent[sample.event_id] = time.monotonic()
            record = sample.record
            await self._producer.send(self._topic, record.value, key=record.key, headers=record.headers)
        await self._arrived(len(sent), time.monotonic() + seconds, told=0)
        warm = began + min(_WARM_SECONDS, seconds / 2)
        arrivals = self._sink.arrivals
        return sorted(arrivals[one] - at for one, at in sent.items() if one in arrivals and at >= warm)

    async def drain(self, samples: Sequence[Sample], give_up: float) -> tuple[float, float | None]:
        """Publish everything at once; return the seconds from the first request to the last, and the CPU seconds.

        The CPU goes on counting until the results are written.
        """
        settled = await self._settled()
        cpu = cpu_seconds(self._pid)
        self._sink.begin({one.event_id for one in samples})
        for first in range(0, len(samples), _CHUNK):
            if time.monotonic() > give_up:
                break
            chunk = [(one.record.value, one.record.key, one.record.headers) for one in samples[first : first + _CHUNK]]
            await self._producer.send_many(self._topic, chunk)
            self._tell(self._sink.n_requests, "drain")
        await self._arrived(len(samples), give_up, told=1)
        while await self._settled() - settled < self._sink.n_requests and time.monotonic() < give_up + 2.0:  # noqa: ASYNC110 - the metrics cannot call us
            await asyncio.sleep(_POLL_SECONDS)
        spent = None if cpu is None else (cpu_seconds(self._pid) or cpu) - cpu
        return self._sink.last_mono - self._sink.first_mono, spent

    async def _arrived(self, n: int, give_up: float, *, told: int) -> None:
        while self._sink.n_requests < n and time.monotonic() < give_up:
            self._tell(self._sink.n_requests * told, "drain" if told else "latency")
            await asyncio.sleep(_POLL_SECONDS)

    async def _settled(self) -> int:
        async with self._session.get(self._metrics_url) as answer:
            for line in (await answer.text()).splitlines():
                if line.startswith(_SETTLED):
                    return int(float(line.removeprefix(_SETTLED)))
        return 0


def make_samples(n: int, account: str) -> list[Sample]:
    """Return `n` sample events of the account's test environment."""
    example = load_example(schema_folder(), _TYPE)
    tokens = [secrets.token_hex(8) for _ in range(n)]
    return [
        Sample(
            show_event_id(event_id_of(SOURCE, token)),
            sample_record(example, account=account, environment="test", token=token, now=clock.utcnow()),
        )
        for token in tokens
    ]


def percentile_ms(ascending: Sequence[float], share: float) -> float | None:
    """Return the milliseconds below which `share` (0..1) of the ascending seconds lie, None when there are none."""
    if not ascending:
        return None
    return round(ascending[min(len(ascending) - 1, int(len(ascending) * share))] * 1_000, 1)


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU seconds that a process has used so far, None where `/proc` does not tell."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    # The name stands in brackets and may hold anything; user and system time are the 12th and 13th word behind it.
    words = text.rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / float(os.sysconf("SC_CLK_TCK"))


def _register(ready: Mapping[str, Any], url: str) -> None:
    with Api(Profile(ready["api_url"], ready["api_keys"]["test"])) as api:
        api.call("POST", "/v1/webhook_endpoints", {"url": f"{url}/bench", "events": [_TYPE]})
