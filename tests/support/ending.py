"""Waiting for processes that are not our children."""

import os
import select


def ends_within(pid: int, seconds: float) -> bool:
    """Wait until a process is gone (a zombie counts as gone); tell whether that took at most `seconds`."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)
