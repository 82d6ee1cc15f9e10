"""What `bench` counts with: a sink that frames requests, percentiles, CPU seconds."""

import asyncio
import os

import pytest

from dispatcher.cli.measuring import cpu_seconds, make_samples, percentile_ms
from dispatcher.embedded.counting_sink import CountingSink


def request(event_id: str, body: bytes) -> bytes:
    head = f"POST /bench HTTP/1.1\r\nHost: x\r\nWebhook-Id: {event_id}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@pytest.mark.parametrize("size", [1, 7, 100_000], ids=["byte by byte", "in pieces", "all at once"])
async def test_the_sink_counts_requests_however_they_are_cut(size: int) -> None:
    raw = request("evt_a", b'{"a":"\r\n\r\n"}') + request("evt_b", b"") + request("evt_a", b"{}")
    async with CountingSink() as sink:
        port = int(sink.url.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for first in range(0, len(raw), size):
            writer.write(raw[first : first + size])
            await writer.drain()
        answers = b"".join([await reader.readuntil(b"\r\n\r\n") for _ in range(3)])
        writer.close()

    assert answers.count(b"204") == 3
    assert sink.n_requests == 3
    assert list(sink.arrivals) == ["evt_a", "evt_b"]
    assert sink.first_mono <= sink.last_mono


def test_what_was_sent_before_is_not_counted_when_it_comes_late() -> None:
    sink = CountingSink()
    sink.note("evt_a")
    sink.begin({"evt_c"})

    for event_id in ("evt_b", "evt_c"):
        sink.note(event_id)

    assert (sink.n_requests, list(sink.arrivals)) == (1, ["evt_c"])


def test_percentiles_are_of_what_there_is() -> None:
    assert percentile_ms([], 0.5) is None
    assert percentile_ms([0.002], 0.99) == 2.0
    assert [percentile_ms([n / 1_000 for n in range(100)], share) for share in (0.5, 0.99)] == [50.0, 99.0]


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc here")  # noqa: PTH110 - at import
def test_cpu_seconds_are_a_process_its_own() -> None:
    before, own = cpu_seconds(os.getpid()), os.times()

    assert before is not None
    assert abs(before - own.user - own.system) < 1.0
    assert cpu_seconds(2**22 + 1) is None


def test_samples_have_ids_of_their_own() -> None:
    samples = make_samples(50, "acct_0123456789")

    assert len({one.event_id for one in samples}) == 50
    assert len({one.record.key for one in samples}) == 50
