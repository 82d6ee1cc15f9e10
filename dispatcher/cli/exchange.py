"""One HTTP request and its answer as people read them: lines of headers, an empty line, a body."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import typer

from dispatcher.cli.table import plain

_PHASES: Final = {"dns_ms": "DNS", "connect_ms": "TCP", "tls_ms": "TLS", "wait_ms": "wait"}

_NO_BODY: Final[Mapping[str, str]] = {
    "scope": "(a body needs a key with the scope payloads:read)",
    "past_retention": "(the body is past its retention)",
}


def print_head(first: str, headers: Iterable[tuple[str, str]]) -> None:
    """Print the first line and the headers. Nothing in them moves a cursor."""
    typer.echo(plain(first))
    for name, value in headers:
        typer.echo(f"{plain(name)}: {plain(value)}")


def print_body(text: str) -> None:
    """Print a body after an empty line, in its own lines; an empty one prints nothing. Nothing moves a cursor."""
    if text:
        typer.echo("")
    print_lines(text)


def why_no_body(reason: str | None) -> str:
    """Return in words why a body is not shown; an empty text where nothing is withheld."""
    return _NO_BODY.get(reason or "", "")


def print_lines(text: str) -> None:
    """Print a text of a stranger in its own lines. Nothing moves a cursor."""
    for line in text.splitlines():
        typer.echo(plain(line.expandtabs(4)))


def phases_of(phases: Mapping[str, Any]) -> str:
    """Return how long each phase took that happened: `DNS 1.2 ms, TCP 0.3 ms, wait 12 ms`."""
    took = ((word, phases[name]) for name, word in _PHASES.items() if phases[name] is not None)
    return ", ".join(f"{word} {ms:.0f} ms" if ms >= 10 else f"{word} {ms:.1f} ms" for word, ms in took)
