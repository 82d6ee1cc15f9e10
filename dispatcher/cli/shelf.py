"""A folder of requests as they came, each a file that `dispatcher verify` reads."""

import os
import re
from pathlib import Path
from typing import Final

from dispatcher.embedded.trial_receiver import Received

_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]{1,80}")
_TOKEN: Final = re.compile(r"[!-~]+")


class Shelf:
    """Writes requests into a folder, made when absent. Files are numbered, and readable by us alone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._number = 0

    def put(self, got: Received) -> str:
        """Write a request to a file of its own; return its path, or why it could not be written."""
        name = got.event_id if _PLAIN.fullmatch(got.event_id) else "request"
        try:
            return str(self._write(name, as_text(got)))
        except OSError as fault:
            return f"not saved: {fault.strerror}"

    def _write(self, name: str, raw: bytes) -> Path:
        while True:
            self._number += 1
            path = self._folder / f"{self._number:04}-{name}.http"
            try:
                handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            except FileExistsError:
                continue
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
            return path


def as_text(got: Received) -> bytes:
    """Return a request as it came over the wire, but for its chunks."""
    target = got.path if _TOKEN.fullmatch(got.path) else "/"
    lines = [f"POST {target} HTTP/1.1", *(f"{name}: {value}" for name, value in got.headers)]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + got.body
