"""Listening on several loopback addresses under one port, as a fleet of hosts would."""

import socket
from collections.abc import Sequence

_BACKLOG = 4096
_TRIES = 20


def listening_sockets(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Return a listening socket for each host, all on one port; port 0 is one that all have free.

    The caller closes them. OSError when there is none.
    """
    for _ in range(_TRIES):
        try:
            return _bind_all(hosts, port)
        except OSError:
            if port:
                raise
    message = f"no port is free on all of {', '.join(hosts)}"
    raise OSError(message)


def _bind_all(hosts: Sequence[str], port: int) -> list[socket.socket]:
    bound: list[socket.socket] = []
    try:
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            one = socket.create_server((host, port), family=family, backlog=_BACKLOG)
            bound.append(one)
            port = port or one.getsockname()[1]
    except OSError:
        for one in bound:
            one.close()
        raise
    return bound


def url_of(scheme: str, host: str, port: int, path: str) -> str:
    """Return an address, with brackets where the host is IPv6."""
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"
