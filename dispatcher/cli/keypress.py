"""Single keys from a terminal while a loop runs; nothing where there is no terminal."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def keys_pressed(act: Mapping[str, Callable[[], None]]) -> Iterator[bool]:
    """Call what belongs to each key pressed within the block; gives whether there is a terminal to press them on."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        yield False
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        for key in os.read(descriptor, 64).decode("ascii", "ignore"):
            if key in act:
                act[key]()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
