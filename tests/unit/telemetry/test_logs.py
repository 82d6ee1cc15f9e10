"""Logs: one line of JSON each, nothing secret in it, and never in anybody's way."""

import io
import json
import logging
import os
import threading
from typing import Any

import pytest
import structlog

from dispatcher.kit import clock
from dispatcher.telemetry.logs import LineWriter, set_up_logs, strike_secrets

pytestmark = pytest.mark.usefixtures("own_logs")


class Log:
    """The daemon's logs in memory."""

    def __init__(self) -> None:
        self._stream = io.BytesIO()
        self.writer: LineWriter

    def start(self, level: str = "debug", form: str = "json") -> None:
        self.writer = set_up_logs(level, form, stream=self._stream)

    def text(self) -> str:
        self.writer.flush()
        return self._stream.getvalue().decode()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def log() -> Log:
    return Log()


def test_a_line_is_one_object_with_its_name_level_time_and_fields(log: Log) -> None:
    log.start()

    structlog.get_logger("intake").info("record_died", topic="t", offset=7, partitions=("a/1", "a/2"), text="a\nb")

    (line,) = log.lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "record_died",
        "level": "info",
        "topic": "t",
        "offset": 7,
        "partitions": ["a/1", "a/2"],
        "text": "a\nb",
    }


def test_what_is_below_the_level_is_not_written(log: Log) -> None:
    log.start(level="warning")

    structlog.get_logger().info("stop_asked")
    structlog.get_logger().error("records_lost")
    logging.getLogger("aiokafka").info("joined")

    assert [line["event"] for line in log.lines()] == ["records_lost"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("the key whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw= is", "the key … is"),
        ("whd_live_0123456789ab_x and whd_test_0123456789ab", "… and …"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: …"),
        ("authorization: bearer abc", "authorization: …"),
        ("postgresql://dispatcher:hunter2@db/d", "postgresql://…@db/d"),
        ("postgresql://u:p@ss:w@db/d", "postgresql://…@db/d"),
        ("https://token@example.com/x", "https://…@example.com/x"),
        ("postgresql://db/d?password=hunter2", "postgresql://db/d?…"),
        ("GET https://example.com/hook?token=abc&x=1 failed", "GET https://example.com/hook?… failed"),
        ("write to me@example.com about https://example.com/a", "write to me@example.com about https://example.com/a"),
        ("whsec_ and whd_live_ are prefixes", "whsec_ and whd_live_ are prefixes"),
    ],
)
def test_secrets_are_struck_and_nothing_else(text: str, shown: str) -> None:
    assert strike_secrets(text) == shown


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_field_of_any_shape_carries_a_secret(log: Log, form: str) -> None:
    log.start(form=form)
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

    structlog.get_logger().warning(
        "claim_failed",
        reason=secret,
        several=[secret, {"inner": (secret,)}],
        odd=Exception(secret),
        raw=secret.encode(),
    )
    logging.getLogger("asyncpg").error("could not use %s", secret)

    text = log.text()
    assert "MfKQ9r8GK" not in text
    assert "claim_failed" in text
    assert "could not use" in text


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_shows_its_class_and_place_but_no_value(log: Log, form: str) -> None:
    log.start(form=form)

    def fall(what: str) -> None:
        raise ValueError(f"cannot read {what}")

    try:
        fall("personal data")
    except ValueError as fault:
        structlog.get_logger().exception("attempt_broken", endpoint_id="we_1")
        structlog.get_logger().error("attempt_broken", exc_info=fault)
        logging.getLogger("asyncio").critical("Task fell\nfuture: %s", repr(fault), exc_info=fault)

    text = log.text()
    assert "personal data" not in text
    assert text.count("ValueError") == 3
    assert text.count("test_logs.py") >= 3


def test_what_libraries_say_takes_the_same_way_once_per_ten_seconds(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr(clock, "mono", lambda: now)
    log.start()

    for _ in range(50):
        logging.getLogger("aiokafka.cluster").error("Topic %s is not available", "t")
    logging.getLogger("aiokafka.cluster").error("something else")
    for _ in range(2):
        logging.getLogger("another.library").warning("not limited")
    now += 10.0
    logging.getLogger("aiokafka.cluster").error("Topic %s is not available", "t")
    logging.getLogger("aiokafka.cluster").info("chatter")

    lines = log.lines()
    assert [line["message"] for line in lines] == [
        "Topic t is not available",
        "something else",
        "not limited",
        "not limited",
        "Topic t is not available",
    ]
    assert {line["event"] for line in lines} == {"library_reported"}
    assert (lines[0]["logger"], lines[0]["level"], lines[2]["level"]) == ("aiokafka.cluster", "error", "warning")


@pytest.mark.timeout(30)
def test_a_pipe_that_nobody_reads_costs_lines_and_not_time() -> None:
    reading, writing = os.pipe()
    stream = os.fdopen(writing, "wb")
    writer = LineWriter(stream)
    line = b"x" * 1_023 + b"\n"

    for _ in range(20_000):
        writer.write(line)

    # The pipe holds 64 KiB, the queue ten thousand lines; the rest was dropped while nobody waited.
    assert 9_000 < writer.dropped < 10_001
    writer.flush(0.01)
    _empty(reading, stream, writer)


def _empty(reading: int, stream: io.BufferedWriter, writer: LineWriter) -> None:
    """Read everything, so that the writing thread ends with the test."""

    def read() -> None:
        while os.read(reading, 65_536):
            pass
        os.close(reading)

    reader = threading.Thread(target=read)
    reader.start()
    writer.flush(10.0)
    stream.close()
    reader.join(10.0)


def test_a_reader_that_has_gone_costs_lines_that_are_counted() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb", buffering=0) as stream:
        writer = LineWriter(stream)

        writer.write(b"line\n")
        writer.write(b"line\n")
        writer.flush()

    assert writer.dropped == 2


def test_what_waits_for_postgres_is_told_once_per_ten_seconds_and_cause(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(clock, "mono", lambda: now[0])
    log.start()
    say = structlog.get_logger().warning

    for now[0] in (0.0, 0.4, 5.0, 9.9, 10.1):
        say("claim_failed", reason="cannot connect to Postgres: ConnectionRefusedError: port 5432")
        say("duty_failed", duty="heartbeat", reason="cannot connect to Postgres: ConnectionRefusedError: port 5432")
        say("duty_failed", duty="take_over", reason="expired: 25006 ReadOnlySQLTransactionError")
        say("replays_unavailable", reason="work_waiting: TimeoutError")
        say("replay_refused", reason="step_feed: 22008 DatetimeFieldOverflowError")
        say("settle_failed", n_settlements=3, reason="settle: 25006 ReadOnlySQLTransactionError")
        say("record_died", offset=int(now[0] * 10), reason="not_json")

    lines = [(line["event"], line["reason"].partition(": ")[2]) for line in log.lines()]
    assert lines.count(("record_died", "")) == 5, "nothing that happens once is left out"
    assert lines.count(("claim_failed", "ConnectionRefusedError: port 5432")) == 2
    assert lines.count(("duty_failed", "25006 ReadOnlySQLTransactionError")) == 2
    assert lines.count(("replays_unavailable", "TimeoutError")) == 2
    assert lines.count(("replay_refused", "22008 DatetimeFieldOverflowError")) == 2
    assert len(lines) == 13
