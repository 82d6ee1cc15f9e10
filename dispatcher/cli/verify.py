"""`dispatcher verify`: which rule does a saved request break? Needs no daemon."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from dispatcher.cli.output import Form, FormOption, show_one

if TYPE_CHECKING:
    from dispatcher.receiver.capture import Capture
    from dispatcher.receiver.diagnosis import Diagnosis

_LARGEST: Final = 4_194_304


def verify(
    request: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="The request as it came; standard input without it.")
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(envvar="WEBHOOK_SECRETS", help="The endpoint's whsec_… secret. Repeat it.", show_default=False),
    ] = None,
    headers: Annotated[Path | None, typer.Option(help="Headers of the request: lines, or a JSON object.")] = None,
    body: Annotated[Path | None, typer.Option(help="Body of the request, its very bytes.")] = None,
    now: Annotated[float | None, typer.Option(help="Judge as of this moment, in Unix seconds.")] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Tell whether a saved request is ours and unchanged, and if not, which rule it breaks and what to do.

    Exits with 0 when it is, 3 when it is not.

    Example: dispatcher verify request.http --secret whsec_…
    Example: dispatcher verify --headers headers.txt --body body.json --secret whsec_…
    """
    from dispatcher.kit import clock
    from dispatcher.receiver.diagnosis import diagnose

    if not secret:
        message = "say with which secret; the environment's WEBHOOK_SECRETS will do"
        raise typer.BadParameter(message, param_hint="--secret")
    capture = _capture(request, headers, body)
    found = diagnose(capture, secret, now=clock.now() if now is None else now)
    if output is not Form.TABLE:
        findings = [{"rule": f.rule, "what": f.what, "cure": f.cure} for f in found.findings]
        show_one(_summary(found, len(secret)) | {"findings": findings}, output)
    elif found.is_verified:
        show_one(_summary(found, len(secret)), output)
    else:
        _tell(found)
    if not found.is_verified:
        raise typer.Exit(3)


def _capture(request: Path | None, headers: Path | None, body: Path | None) -> "Capture":
    from dispatcher.receiver.capture import Capture, NoRequest, read_headers, read_request

    if (headers is None) != (body is None) or (request is not None and headers is not None):
        message = "give a whole request, or both --headers and --body"
        raise typer.BadParameter(message, param_hint="FILE")
    try:
        if headers is not None and body is not None:
            return Capture(read_headers(_read(headers)), _read(body))
        return read_request(_read(request))
    except NoRequest as fault:
        raise typer.BadParameter(str(fault), param_hint="--headers" if headers else "FILE") from fault


def _read(path: Path | None) -> bytes:
    try:
        if path is None or str(path) == "-":
            raw = sys.stdin.buffer.read(_LARGEST + 1)
        else:
            with path.open("rb") as file:
                raw = file.read(_LARGEST + 1)
    except OSError as fault:
        message = f"cannot be read: {fault.strerror}"
        raise typer.BadParameter(message, param_hint=str(path)) from fault
    if len(raw) > _LARGEST:
        message = f"more than {_LARGEST} bytes: this is no webhook"
        raise typer.BadParameter(message)
    return raw


def _summary(found: "Diagnosis", n_secrets: int) -> dict[str, Any]:
    number = found.secret_number
    return {
        "verified": found.is_verified,
        "id": found.event_id,
        "signed_at": found.signed_at,
        "secret": None if number is None else f"{number} of {n_secrets}",
    }


def _tell(found: "Diagnosis") -> None:
    import textwrap

    from dispatcher.cli.table import plain

    typer.echo(f"not verified: {plain(found.event_id or 'no usable headers')}")
    for finding in found.findings:
        typer.echo(f"\n{finding.rule}: {plain(finding.what)}")
        typer.echo(textwrap.fill(finding.cure, 110, initial_indent="  ", subsequent_indent="  "))
