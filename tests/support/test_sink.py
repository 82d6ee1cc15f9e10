import asyncio
import json
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from urllib.error import HTTPError

import aiohttp
import pytest
from standardwebhooks import Webhook

from dispatcher.kit import clock
from tests.support.certificates import Certificates
from tests.support.sink import Action, Sink, Step, sink_process, throttled

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
BODY = b'{"name":"J\xc3\xbcrgen"}'


def signed(body: bytes = BODY) -> dict[str, str]:
    now = clock.utcnow()
    return {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Webhook(SECRET).sign("evt_1", now, body.decode()),
    }


async def post(url: str, *, tls: ssl.SSLContext | None = None) -> tuple[int, Mapping[str, str], str]:
    timeout = aiohttp.ClientTimeout(total=5)
    connector = aiohttp.TCPConnector(ssl=tls or True)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.post(url, data=BODY, headers=signed()) as answer,
    ):
        return answer.status, answer.headers, await answer.text()


async def test_a_path_follows_its_script_and_stays_at_the_end(sink: Sink) -> None:
    sink.script("/hook", [Step(status=503, body="later"), throttled("7"), Step(status=204)])

    answers = [await post(sink.url("/hook?page=1")) for _ in range(4)]

    assert [answer[0] for answer in answers] == [503, 429, 204, 204]
    assert answers[0][2] == "later"
    assert answers[1][1]["Retry-After"] == "7"
    assert [one.status for one in sink.received("/hook")] == [503, 429, 204, 204]
    assert (await post(sink.url("/other")))[0] == 200


async def test_a_cycle_begins_again(sink: Sink) -> None:
    sink.script("/hook", [Step(status=500), Step()], cycle=True)

    assert [(await post(sink.url("/hook")))[0] for _ in range(4)] == [500, 200, 500, 200]


@pytest.mark.parametrize(
    ("action", "fault"),
    [
        (Action.RESET, aiohttp.ClientOSError),
        (Action.CLOSE, aiohttp.ServerDisconnectedError),
        (Action.CUT, aiohttp.ClientPayloadError),
        (Action.RAW, aiohttp.ClientResponseError),
    ],
)
async def test_a_connection_ends_as_the_script_says(
    tls_sink: Sink, certificates: Certificates, action: Action, fault: type[Exception]
) -> None:
    tls_sink.script("/hook", [Step(action=action, body="not http\r\n\r\n")])

    with pytest.raises(fault):
        await post(tls_sink.url("/hook"), tls=certificates.client_context())

    assert len(tls_sink.requests) == 1


async def test_a_hanging_path_says_nothing_until_the_client_leaves(sink: Sink) -> None:
    sink.script("/hook", [Step(action=Action.HANG)])

    posting = asyncio.ensure_future(post(sink.url("/hook")))
    await sink.arrival(1)
    answered, _ = await asyncio.wait({posting}, timeout=0.1)
    posting.cancel()
    await asyncio.wait({posting})

    assert not answered


async def test_a_dripping_answer_is_whole_in_the_end(sink: Sink) -> None:
    sink.script("/hook", [Step(action=Action.DRIP, body="drop", drip_seconds=0.001)])

    assert (await post(sink.url("/hook")))[2] == "drop"


async def test_signatures_are_judged_by_the_independent_library(sink: Sink) -> None:
    sink.verify("/right", "whsec_" + "A" * 32, SECRET)
    sink.verify("/wrong", "whsec_" + "A" * 32)

    for path in ("/right", "/wrong", "/nobody-asked"):
        await post(sink.url(path))

    assert [one.signature for one in sink.requests] == ["valid", "invalid", "unchecked"]
    assert sink.counts()["invalid_signatures"] == 1


async def test_a_breach_of_http_is_a_fault(sink: Sink) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab")

    assert await reader.read() == b""

    writer.close()
    assert "Content-Length" in sink.requests[0].fault
    assert sink.counts()["faults"] == 1


async def test_the_log_has_a_request_before_its_answer(tmp_path: Path) -> None:
    async with Sink.serving(log=tmp_path / "log") as sink:
        sink.script("/hook", [Step(action=Action.CLOSE)])
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await post(sink.url("/hook"))

        line = json.loads((tmp_path / "log").read_text())

    assert line["body"] == BODY.decode()
    assert line["status"] is None


async def test_waiting_for_arrivals_ends_with_the_last_one(sink: Sink) -> None:
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(sink.arrival(2, path="/hook"))
        await post(sink.url("/hook"))
        assert not waiting.done()
        await post(sink.url("/hook"))

    with pytest.raises(TimeoutError):
        await sink.arrival(3, seconds=0.01)


@pytest.mark.parametrize("tls", [False, True])
def test_a_process_is_scripted_over_its_control_path(tmp_path: Path, *, tls: bool) -> None:
    with sink_process(tmp_path, tls=tls, hosts=("127.0.0.1", "127.0.0.9")) as process:
        process.script("/hook", [Step(status=503), Step()])
        process.verify("/hook", SECRET)
        statuses = [_post(process.url("/hook", host="127.0.0.9"), process.authority) for _ in "ab"]

        assert statuses == [503, 200]
        assert process.counts()["requests"] == 2
        assert [one["signature"] for one in process.requests()] == ["valid", "valid"]


@pytest.mark.parametrize("tls", [False, True])
def test_the_fast_sink_counts_and_times_what_it_answers(tmp_path: Path, *, tls: bool) -> None:
    with sink_process(tmp_path, "--fast", "--times", tls=tls) as process:
        before = clock.mono()
        assert [_post(process.url("/hook"), process.authority) for _ in "abc"] == [200, 200, 200]

        counts, times = process.counts(), process.times()

    assert (counts["requests"], counts["bad"], counts["bytes"]) == (3, 0, 3 * len(BODY))
    assert [identity for _, identity in times] == ["evt_1"] * 3
    assert all(before <= at <= clock.mono() for at, _ in times)


def _post(url: str, authority: Path | None) -> int:
    context = ssl.create_default_context(cafile=str(authority)) if authority else None
    question = urllib.request.Request(url, data=BODY, headers=signed())
    try:
        with urllib.request.urlopen(question, context=context, timeout=5) as answer:
            status: int = answer.status
            return status
    except HTTPError as fault:
        fault.close()
        return fault.code
