"""Waiting for processes that are not our children."""

import os
import select


def ends_within(pid: int, seconds: float) -> bool:
    """Tell whether a process is gone, or a zombie, before `seconds` are over; blocks."""
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
