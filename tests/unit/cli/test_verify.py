"""`dispatcher verify`, run as a person runs it: words and codes for a saved request."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dispatcher.policy.signing import Signer, show_secret

KEY = b"k" * 36
SECRET = show_secret(KEY)
BODY = b'{"id":"evt_1","type":"webhook.ping"}'


def signed_head(at: int | None = None) -> bytes:
    stamp = str(at or int(time.time())).encode()
    signature = Signer([KEY]).sign(b"evt_1", stamp, BODY)
    lines = [
        b"webhook-id: evt_1",
        b"Webhook-Timestamp: " + stamp,
        b"webhook-signature: " + signature,
        b"content-length: %d" % len(BODY),
    ]
    return b"\r\n".join(lines)


def request(at: int | None = None) -> bytes:
    return b"POST /webhooks HTTP/1.1\r\n" + signed_head(at) + b"\r\n\r\n" + BODY


def verify(*words: str, saved: bytes = b"", secrets: str = SECRET) -> subprocess.CompletedProcess[str]:
    """Run the command with `saved` on its standard input, and no settings of a daemon."""
    done = subprocess.run(
        [sys.executable, "-m", "dispatcher", "verify", *words],
        input=saved,
        env={"PATH": os.environ["PATH"], "WEBHOOK_SECRETS": secrets, "COLUMNS": "200"},
        capture_output=True,
        check=False,
        timeout=50,
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def test_a_sound_request_is_told_so_from_standard_input_and_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "request.http").write_bytes(request())

    piped = verify("-o", "json", saved=request())
    from_file = verify(str(tmp_path / "request.http"), "--secret", show_secret(b"o" * 36), "--secret", SECRET)

    assert piped.returncode == 0, piped.stderr
    shown = json.loads(piped.stdout)
    assert (shown["verified"], shown["id"], shown["secret"], shown["findings"]) == (True, "evt_1", "1 of 1", [])
    assert from_file.returncode == 0, from_file.stderr
    assert "verified   yes" in from_file.stdout
    assert "2 of 2" in from_file.stdout


def test_headers_and_body_may_be_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "headers.txt").write_bytes(signed_head())
    (tmp_path / "body.json").write_bytes(BODY + b"\n")
    files = ("--headers", str(tmp_path / "headers.txt"), "--body", str(tmp_path / "body.json"))

    refused = verify(*files)

    assert refused.returncode == 3
    assert refused.stdout.startswith("not verified: evt_1\n\nbody_trailing_newline: ")
    assert "--data-binary" in refused.stdout
    assert SECRET not in refused.stdout + refused.stderr


def test_a_request_of_long_ago_can_be_judged_as_of_then() -> None:
    old = verify("-o", "json", saved=request(at=1_793_697_900))
    then = verify("--now", "1793698200", "-o", "json", saved=request(at=1_793_697_900))

    (finding,) = json.loads(old.stdout)["findings"]
    assert finding["rule"].startswith("timestamp_too_")
    assert old.returncode == 3
    assert then.returncode == 0


@pytest.mark.parametrize(
    ("words", "secrets", "told"),
    [
        ((), "", "--secret"),
        (("--headers", "nowhere"), SECRET, "--headers and --body"),
        (("nowhere.http",), SECRET, "cannot be read"),
        ((), SECRET, "blank line"),
    ],
)
def test_a_mistake_in_the_call_is_no_verdict(words: tuple[str, ...], secrets: str, told: str) -> None:
    done = verify(*words, secrets=secrets)

    assert done.returncode == 2
    assert told in done.stderr
