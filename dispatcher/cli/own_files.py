"""Files that tell a command where to go and with which key: read only where nobody else can have written them."""

import os
import stat
from pathlib import Path
from typing import Final

from dispatcher.model.errors import DispatcherError

_WRITABLE_BY_OTHERS: Final = stat.S_IWGRP | stat.S_IWOTH


class StrangersFile(DispatcherError):
    """Somebody else can have written the file."""


def trusted_users() -> set[int]:
    """Return whose files are as good as our own: ours, and those of root, who can do anything anyhow."""
    return {os.geteuid(), 0}


def read_own(file: Path) -> bytes:
    """Return what the file holds.

    Raises:
        StrangersFile: it belongs to another user than us or root, or others can write it.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        # Of what is open, not of the path: that may lead elsewhere by now.
        found = os.fstat(opened.fileno())
        if found.st_uid not in trusted_users():
            message = f"{file} belongs to another user and is not trusted: remove it, or `chown` it to yourself"
            raise StrangersFile(message)
        if found.st_mode & _WRITABLE_BY_OTHERS:
            message = f"{file} can be written by others and is not trusted: look at it, then `chmod go-w {file}`"
            raise StrangersFile(message)
        return opened.read()
