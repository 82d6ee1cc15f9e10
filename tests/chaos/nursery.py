"""Daemons by the dozen: one process that has imported the program once forks every daemon of a run.

    run --line of JSON--> nursery --fork--> daemon
        <--line: its end--'

Starting the interpreter and importing is nearly all that a start costs; a kill is followed by a start, so it is what
bounds the number of kills per minute. What is forked is the unchanged program, called as its command is: environment,
arguments and failpoint are set before it begins. `--without GUARD` takes a guard out first; see `controls`.

The nursery itself runs no loop and no thread. It ends, and kills what lives, when its standard input does.
"""

import argparse
import asyncio
import json
import os
import random
import selectors
import signal
import socket
import sys
from typing import Any

from dispatcher.cli import main as command
from dispatcher.kit import failpoints
from tests.chaos import controls

TELL = signal.SIGUSR2
"""A daemon that gets it tells what its tasks wait for: for one that does not end."""


def _preload() -> None:
    """Import what the command imports late."""
    import aiokafka.consumer.group_coordinator
    import uvloop

    import dispatcher.cli.daemon
    import dispatcher.cli.run
    import dispatcher.telemetry.logs

    assert all((aiokafka, uvloop, dispatcher))


def _become(order: dict[str, Any]) -> int:
    """Be the daemon that was ordered, in the forked child, and return its exit code."""
    os.setsid()
    for number, path in ((1, order["stdout"]), (2, order["stderr"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, number)
        os.close(file)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(TELL, _tell)
    os.environ.clear()
    os.environ.update(order["environment"])
    armed = os.environ.get(failpoints.VARIABLE)
    failpoints._armed = failpoints.Failpoint.parse(armed) if armed else None
    _forget_common_chance()
    sys.argv = ["dispatcher", *order["words"]]
    try:
        command.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _tell(*_: object) -> None:
    """Write on standard error what every task of the loop waits for."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)


def _forget_common_chance() -> None:
    """Seed every source of chance anew: forked ones would all throw the same dice."""
    for name, module in list(sys.modules.items()):
        if name.startswith("dispatcher"):
            for value in vars(module).values():
                if isinstance(value, random.Random):
                    value.seed()


def _fork(line: bytes, open_here: tuple[socket.socket, ...]) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        for one in open_here:
            one.close()
        code = _become(json.loads(line))
    except BaseException:  # noqa: BLE001 - nothing of the child may run on as the nursery
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _reap(living: set[int]) -> list[dict[str, int]]:
    ends = []
    for pid in list(living):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            living.discard(pid)
            ends.append({"pid": pid, "code": os.waitstatus_to_exitcode(status)})
    return ends


def serve() -> None:
    """Fork a daemon for every line on standard input; tell of births and ends on standard output."""
    waking, woken = socket.socketpair()
    waking.setblocking(False)
    signal.set_wakeup_fd(waking.fileno())
    signal.signal(signal.SIGCHLD, lambda *_: None)
    selector = selectors.DefaultSelector()
    selector.register(0, selectors.EVENT_READ)
    selector.register(woken, selectors.EVENT_READ)
    living: set[int] = set()
    rest = b""
    is_open = True
    while is_open:
        for key, _ in selector.select():
            if key.fileobj is woken:
                woken.recv(4096)
                continue
            data = os.read(0, 1 << 20)
            is_open = bool(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                pid = _fork(line, (waking, woken))
                living.add(pid)
                _say({"pid": pid, "order": json.loads(line)["name"]})
        for end in _reap(living):
            _say(end)
    for pid in living:
        os.kill(pid, signal.SIGKILL)


def _say(fact: dict[str, Any]) -> None:
    os.write(1, json.dumps(fact).encode() + b"\n")


def main() -> None:
    """Parse the command line, take out a guard where asked to, serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--without", choices=controls.REMOVABLE)
    chosen = parser.parse_args()
    _preload()
    if chosen.without:
        controls.remove(chosen.without)
    serve()


if __name__ == "__main__":
    main()
