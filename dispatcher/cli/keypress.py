"""Single keys from a terminal while a loop runs; nothing where there is no terminal."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress


@contextmanager
def keys_pressed(act: Mapping[str, Callable[[], None]], *, hung_up: Callable[[], None]) -> Iterator[bool]:
    """Call what belongs to each key pressed within the block; gives whether there is a terminal to press them on.

    `hung_up` is called when that terminal goes away: not everybody is sent SIGHUP then.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        yield False
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    loop = asyncio.get_running_loop()

    def read() -> None:
        pressed = b""
        with suppress(OSError):
            pressed = os.read(descriptor, 64)
        if not pressed:
            # From now on it would be ready to be read at every turn of the loop.
            loop.remove_reader(descriptor)
            hung_up()
        for key in pressed.decode("ascii", "ignore"):
            if key in act:
                act[key]()

    tty.setcbreak(descriptor)
    loop.add_reader(descriptor, read)
    try:
        yield True
    finally:
        loop.remove_reader(descriptor)
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
