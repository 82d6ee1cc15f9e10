"""An endpoint that does what it is told and remembers what it got.

Every request is recorded the moment its last byte is read, before it is answered; h11 parses it, so
a request that is not HTTP/1.1 to the letter is recorded as a fault. Each path follows a script, a
row of steps; a path without one answers 200.

    async with Sink.serving() as sink:
        sink.script("/hook", [Step(status=503), Step(delay_seconds=2), Step()])
        sink.verify("/hook", "whsec_...")
        ...
        await sink.arrival(3, path="/hook")
        assert [request.signature for request in sink.requests] == ["valid"] * 3

As a process, `python -m tests.support.sink --ready-file FILE` (see `--help`) or `sink_process`:

    POST /_control  {"path": "/hook", "steps": [{"status": 503}], "cycle": true, "secrets": [...]}
    GET  /_control  {"requests": 17, "connections": 3, "faults": 0, "invalid_signatures": 0}
"""

from tests.support.sink.process import SinkProcess, sink_process
from tests.support.sink.script import OK, Action, Request, Signature, Step, throttled
from tests.support.sink.server import CONTROL_PATH, Sink

__all__ = [
    "CONTROL_PATH",
    "OK",
    "Action",
    "Request",
    "Signature",
    "Sink",
    "SinkProcess",
    "Step",
    "sink_process",
    "throttled",
]
