"""The example receivers in their own languages: every published case, and a round trip over HTTP."""

import asyncio
import base64
import functools
import hashlib
import hmac
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from dispatcher.embedded.children import free_port
from dispatcher.policy.signing import Signer, show_secret
from tests.house.files import ROOT
from tests.support.record_files import SCHEMAS

EXAMPLES = ROOT / "deploy" / "examples" / "receivers"
CASES = SCHEMAS / "vectors" / "cases.psv"
NEW, OLD = b"n" * 36, b"o" * 36
LARGEST_BODY = 1_048_576
SECRETS = f"{show_secret(NEW)} {show_secret(OLD)}"

# A compiler may have to be warmed up, on a machine that is busy.
pytestmark = pytest.mark.timeout(400)


@dataclass(frozen=True)
class Example:
    """How to run one: `command` gives its argument list, `ready` is the line that tells where it listens."""

    runtime: str
    command: Callable[[], list[str]]
    ready: str = r"receiving on (http://[^/]+)"


@functools.cache
def compiled_go() -> str:
    """Return the built program, kept in the temporary folder: the first build compiles `net/http`, half a minute."""
    source = EXAMPLES / "go" / "receiver.go"
    folder = Path(tempfile.gettempdir(), f"dispatcher-examples-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    program = folder / f"receiver-{hashlib.sha256(source.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        made = program.with_suffix(f".{os.getpid()}")
        # Unoptimised builds take half the time.
        subprocess.run(
            ["go", "build", "-gcflags=all=-N -l", "-ldflags=-s -w", "-o", made, source],
            env={**os.environ, "GOCACHE": str(folder / "go"), "GOTOOLCHAIN": "local", "GOFLAGS": ""},
            check=True,
            capture_output=True,
        )
        made.replace(program)
    return str(program)


def java() -> list[str]:
    # Nothing here runs long enough for the second compiler.
    return ["java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", str(EXAMPLES / "java" / "Receiver.java")]


EXAMPLE = {
    "python": Example(sys.executable, lambda: [sys.executable, str(EXAMPLES / "python" / "server.py")]),
    "node": Example("node", lambda: ["node", str(EXAMPLES / "node" / "server.mjs")]),
    "go": Example("go", lambda: [compiled_go()]),
    "java": Example("java", java),
    "php": Example("php", lambda: ["php", str(EXAMPLES / "php" / "receiver.php")], r"\((http://[^)]+)\) started"),
    "ruby": Example("ruby", lambda: ["ruby", str(EXAMPLES / "ruby" / "receiver.rb")]),
    "bash": Example("openssl", lambda: ["bash", str(EXAMPLES / "bash" / "receiver.sh")]),
}
UVICORN = [sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES / "python"), "--port", "0", "fastapi_app:app"]
SERVER = EXAMPLE | {"fastapi": Example(sys.executable, lambda: UVICORN, r"running on (http://[0-9.:]+)")}


def example_of(language: str) -> Example:
    example = SERVER[language]
    if shutil.which(example.runtime) is None:
        pytest.skip(f"{example.runtime} is not on this machine")
    return example


@pytest.mark.parametrize("language", EXAMPLE)
def test_an_example_accepts_and_refuses_what_is_published(language: str) -> None:
    done = subprocess.run(
        [*example_of(language).command(), "--verify", str(CASES)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )

    assert (done.returncode, done.stderr) == (0, "")
    expected = ["|".join(line.split("|")[:2]) for line in CASES.read_text(encoding="utf-8").splitlines()]
    assert done.stdout.splitlines() == expected


class Running:
    """A receiver that serves, and what it printed so far."""

    def __init__(self, url: str, lines: list[str], session: aiohttp.ClientSession) -> None:
        self.url, self.lines, self._session = url, lines, session

    @property
    def place(self) -> tuple[str, int]:
        """Return host and port."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        assert parts.port is not None
        return parts.hostname, parts.port

    async def send_in_pieces(self, body: bytes, headers: list[tuple[str, str]]) -> int | None:
        """Send without telling the length beforehand; None when the receiver hung up."""

        async def pieces() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 65_536):
                yield body[start : start + 65_536]

        try:
            async with self._session.post(f"{self.url}/webhooks", data=pieces(), headers=headers) as answer:
                return answer.status
        except aiohttp.ClientConnectionError:
            return None

    async def send(self, body: bytes, headers: list[tuple[str, str]], method: str = "POST") -> int:
        async with self._session.request(method, f"{self.url}/webhooks", data=body, headers=headers) as answer:
            await answer.read()
            return answer.status


def environment(folder: Path, port: int, trusted: str = SECRETS) -> dict[str, str]:
    return {
        **os.environ,
        "PORT": str(port),
        "WEBHOOK_SECRETS": trusted,
        "WEBHOOK_INBOX": str(folder / "inbox"),
        "PYTHONUNBUFFERED": "1",
    }


@asynccontextmanager
async def a_server(language: str, folder: Path, trusted: str) -> AsyncIterator[tuple[str, list[str]]]:
    """Start it and give its address and its lines; it is gone at the end."""
    example = example_of(language)
    process = await asyncio.create_subprocess_exec(
        *example.command(),
        # The server of PHP takes no port 0.
        env=environment(folder, free_port() if language == "php" else 0, trusted),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    lines: list[str] = []
    listening = asyncio.get_running_loop().create_future()

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            lines.append(line.decode())
            found = re.search(example.ready, lines[-1])
            if found and not listening.done():
                listening.set_result(found[1])
        if not listening.done():
            listening.set_exception(RuntimeError(f"it ended: {''.join(lines)}"))

    reading = asyncio.create_task(read())
    try:
        yield await listening, lines
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        await reading


@contextmanager
def an_inetd(folder: Path, trusted: str) -> Iterator[tuple[str, list[str]]]:
    """Run the script once per connection, with the connection as its input and output."""
    command = example_of("bash").command()
    lines: list[str] = []
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                done = subprocess.run(
                    command,
                    stdin=connection.fileno(),
                    stdout=connection.fileno(),
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment(folder, 0, trusted),
                    check=False,
                )
                lines.extend(done.stderr.splitlines(keepends=True))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", lines
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join()


@asynccontextmanager
async def receiving(language: str, folder: Path, trusted: str = SECRETS) -> AsyncIterator[Running]:
    """Run an example that trusts these secrets, in a folder of its own."""
    async with aiohttp.ClientSession(
        timeout=aiohttp.ClientTimeout(total=60), connector=aiohttp.TCPConnector(force_close=True)
    ) as session:
        if language == "bash":
            with an_inetd(folder, trusted) as (url, lines):
                yield Running(url, lines, session)
        else:
            async with a_server(language, folder, trusted) as (url, lines):
                yield Running(url, lines, session)


def signed(event_id: str, body: bytes, *keys: bytes) -> list[tuple[str, str]]:
    stamp = str(int(time.time()))
    return [
        ("webhook-id", event_id),
        ("Webhook-Timestamp", stamp),
        ("webhook-signature", Signer(keys).sign(event_id.encode(), stamp.encode(), body).decode()),
        ("content-type", "application/json"),
        ("x-webhook-event", "webhook.ping"),
    ]


@pytest.mark.parametrize("language", SERVER)
async def test_an_example_receives_over_http(language: str, tmp_path: Path) -> None:
    body = '{ "id":"evt_first", "type":"webhook.ping", "name":"José 日本" }'.encode()
    async with receiving(language, tmp_path) as running:
        first = await running.send(body, signed("evt_first", body, NEW))
        again = await running.send(body, signed("evt_first", body, NEW))
        rotated = await running.send(body, signed("evt_second", body, OLD))
        altered = await running.send(body + b"\n", signed("evt_third", body, NEW))
        stranger = await running.send(body, signed("evt_third", body, b"s" * 36))
        twice = await running.send(body, [*signed("evt_third", body, NEW), signed("evt_third", body, NEW)[2]])
        other_method = await running.send(b"", [], method="PUT")
        large = body[:-1] + b" " * LARGEST_BODY + b"}"
        too_large = await running.send_in_pieces(large, signed("evt_large", large, NEW))

    assert (first, again, rotated) == (204, 204, 204)
    assert (altered, stranger, twice) == (400, 400, 400)
    assert other_method in {405, 501}
    assert too_large in {400, 411, 413, None}
    received = [re.sub(r"^.*(?=received)", "", line).strip() for line in running.lines if "received" in line]
    assert received == ["received evt_first webhook.ping", "received evt_second webhook.ping"]


async def test_half_requests_neither_stop_the_server_of_the_jdk_nor_stay(tmp_path: Path) -> None:
    body = b'{"id":"evt_first","type":"webhook.ping"}'
    async with receiving("java", tmp_path) as running:
        halves = [await asyncio.open_connection(*running.place) for _ in range(9)]
        for _, writer in halves:
            writer.write(b"POST /webhooks HTTP/1.1\r\n")
            await writer.drain()

        answered = await running.send(body, signed("evt_first", body, NEW))
        ends = [await reader.read() for reader, _ in halves]
        for _, writer in halves:
            writer.close()

    assert answered == 204
    assert ends == [b""] * 9


NO_SECRETS = pytest.mark.parametrize(
    "secrets",
    ["", "whsec_", "whsec_A", SECRETS[:-20], f"{SECRETS.split(maxsplit=1)[0]} whsec_A"],
    ids=["none", "empty", "of no bytes", "cut", "of no bytes beside a good one"],
)


@pytest.mark.parametrize("language", [one for one in EXAMPLE if one != "bash"])
@NO_SECRETS
def test_without_a_secret_an_example_accepts_nobody(language: str, secrets: str, tmp_path: Path) -> None:
    done = subprocess.run(
        example_of(language).command(),
        env={**environment(tmp_path, free_port()), "WEBHOOK_SECRETS": secrets, "WEBHOOK_SECRET": secrets},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode != 0
    assert "receiving on" not in done.stdout


@NO_SECRETS
def test_without_a_secret_the_script_accepts_nobody(secrets: str, tmp_path: Path) -> None:
    stamp = str(int(time.time()))
    forged = base64.b64encode(hmac.digest(b"", f"evt_x.{stamp}.{{}}".encode(), "sha256")).decode()
    headers = f"webhook-id: evt_x\r\nwebhook-timestamp: {stamp}\r\nwebhook-signature: v1,{forged}\r\n"

    done = subprocess.run(
        example_of("bash").command(),
        input=f"POST / HTTP/1.1\r\n{headers}content-length: 2\r\n\r\n{{}}".encode(),
        env={**environment(tmp_path, 0), "WEBHOOK_SECRETS": secrets, "WEBHOOK_SECRET": secrets},
        capture_output=True,
        timeout=60,
        check=False,
    )

    assert not done.stdout.startswith(b"HTTP/1.1 2")
    assert b"received" not in done.stderr
