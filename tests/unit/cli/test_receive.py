"""`dispatcher receive`, run as a person runs it: what it prints, and what it refuses to start with."""

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dispatcher.receiver.capture import read_request

COMMAND = [sys.executable, "-m", "dispatcher", "receive", "--port", "0"]
ENVIRONMENT = {"PATH": os.environ["PATH"], "PYTHONUNBUFFERED": "1"}


class Terminal:
    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self._process, self._url = process, url

    def send(self, event_id: str, body: bytes = b"{}") -> tuple[int, str]:
        """Send one event and return the status and the line that was printed."""
        headers = {"webhook-id": event_id, "x-webhook-event": "webhook.ping", "x-webhook-attempt": "2/4"}
        try:
            with urllib.request.urlopen(urllib.request.Request(self._url, body, headers), timeout=30) as answer:
                status = answer.status
        except urllib.error.HTTPError as refused:
            status = refused.code
        return status, self.line()

    def line(self) -> str:
        """Return the next line that is printed."""
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def receiving(*words: str) -> Iterator[Terminal]:
    with subprocess.Popen(
        [*COMMAND, *words], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            told = process.stderr.readline()
            found = re.search(r"http://[^ ]+", told)
            assert found is not None, told + process.stderr.read()
            yield Terminal(process, found[0])
        finally:
            process.terminate()


def test_a_repetition_is_told_over_restarts(tmp_path: Path) -> None:
    inbox = ("--inbox", str(tmp_path / "inbox.db"))
    with receiving("--status", "500,204", *inbox) as terminal:
        failed, taken = terminal.send("evt_1"), terminal.send("evt_1")
    with receiving("--status", "500", *inbox) as terminal:
        repeated = terminal.send("evt_1")

    assert [status for status, _ in (failed, taken, repeated)] == [500, 204, 204]
    assert re.fullmatch(r"[\d:.]+  webhook.ping +evt_1  attempt 2/4  -> 500  signature not checked", failed[1])
    assert "received before" not in taken[1]
    assert repeated[1].endswith("received before")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--delay", "soon"), "250ms or 6s"),
        (("--status", "99"), "500,500,204"),
        (("--inbox", "no/such/folder/inbox.db"), "cannot be an inbox"),
        (("--fail-rate", "2"), "--fail-rate"),
        (("--secret", "whsec_"), "secret is empty"),
    ],
)
def test_what_it_cannot_start_with_is_told(words: tuple[str, ...], told: str) -> None:
    done = subprocess.run(
        [*COMMAND, *words],
        env=ENVIRONMENT | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert done.returncode == 2
    assert told in done.stderr


def test_requests_are_saved_whole_under_names_of_our_own(tmp_path: Path) -> None:
    folder = tmp_path / "requests"
    with receiving("--save", str(folder)) as terminal:
        terminal.send("evt_1")
        first = terminal.line()
        terminal.send("../../evt_2")
        second = terminal.line()

    assert [first, second] == [str(folder / "0001-evt_1.http"), str(folder / "0002-request.http")]
    saved = read_request(Path(second).read_bytes())
    assert saved.all_of("webhook-id") == ["../../evt_2"]
    assert saved.body == b"{}"
    assert Path(first).stat().st_mode & 0o077 == 0


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(AssertionError, match="cannot take requests"), receiving("--save", str(tmp_path / "file" / "x")):
        pass


def test_what_a_stranger_sends_moves_no_cursor() -> None:
    with receiving("--body") as terminal:
        _, line = terminal.send("evt_1\x9b2J", b"one\x1b]0;x\x07\ntwo\xc2\x9b\n")
        body = [terminal.line(), terminal.line()]

    assert "evt_1\\udc9b2J" in line
    assert body == ["one\\x1b]0;x\\x07", "two\\x9b"]


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_programs_get_an_object_for_each_request(form: str, tmp_path: Path) -> None:
    with receiving("-o", form, "--body", "--save", str(tmp_path), "--status", "500") as terminal:
        _, line = terminal.send("evt_1")

    told = json.loads(line)
    assert {name: told[name] for name in ("event_id", "status", "verified", "fault", "duplicate", "body")} == {
        "event_id": "evt_1",
        "status": 500,
        "verified": False,
        "fault": None,
        "duplicate": False,
        "body": "{}",
    }
    assert ["webhook-id", "evt_1"] in [[name.lower(), value] for name, value in told["headers"]]
    assert told["saved"] == str(tmp_path / "0001-evt_1.http")


def test_bytes_that_are_no_text_do_not_stop_the_objects() -> None:
    with receiving("-o", "jsonl", "--body") as terminal:
        status, line = terminal.send("evt_\x9b", b"\xff")

    told = json.loads(line)
    assert (status, told["event_id"], told["body"]) == (204, "evt_\ufffd", "\ufffd")
