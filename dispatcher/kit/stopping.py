"""The wish to stop, as two steps: first politely, then at once."""

import asyncio
import signal


class StopRequest:
    """`asked` is set by the first signal, `pressed` by the second. Make it inside the loop it serves."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.pressed = asyncio.Event()

    def ask(self) -> None:
        """Ask once; asking again presses."""
        if self.asked.is_set():
            self.pressed.set()
        self.asked.set()

    def listen(self, *numbers: signal.Signals) -> None:
        """Take the signals as asking, for as long as the running loop lives."""
        loop = asyncio.get_running_loop()
        for number in numbers:
            loop.add_signal_handler(number, self.ask)
