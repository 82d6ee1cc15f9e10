"""The wish to stop: first politely, then at once."""

import asyncio
import os
import signal

from dispatcher.kit.stopping import StopRequest


async def test_nobody_has_asked_at_first_and_the_second_ask_presses() -> None:
    stop = StopRequest()
    assert (stop.asked.is_set(), stop.pressed.is_set()) == (False, False)

    stop.ask()
    assert (stop.asked.is_set(), stop.pressed.is_set()) == (True, False)

    stop.ask()
    assert (stop.asked.is_set(), stop.pressed.is_set()) == (True, True)


async def test_signals_ask() -> None:
    stop = StopRequest()
    stop.listen(signal.SIGUSR1, signal.SIGUSR2)
    try:
        async with asyncio.timeout(5):
            os.kill(os.getpid(), signal.SIGUSR1)
            await stop.asked.wait()
            assert not stop.pressed.is_set()
            os.kill(os.getpid(), signal.SIGUSR2)
            await stop.pressed.wait()
    finally:
        for number in (signal.SIGUSR1, signal.SIGUSR2):
            asyncio.get_running_loop().remove_signal_handler(number)
