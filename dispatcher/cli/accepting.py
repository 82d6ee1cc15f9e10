"""`dispatcher users accept`: turn an invitation into a key of one's own, kept as `dispatcher login` keeps one."""

import re
import sys
from typing import Annotated, Any, Final

import typer

from dispatcher.cli import profile_file
from dispatcher.cli.client import Api, ApiUrlOption, Profile, read_ready_file, ready_file
from dispatcher.cli.output import Form, FormOption, show_done
from dispatcher.cli.profile_file import KeptProfile, ProfileFault
from dispatcher.cli.refusals import CallFailed
from dispatcher.cli.table import plain

_TOKEN: Final = re.compile(r"whi_[0-9A-Za-z]{49}")
_FROM_INPUT: Final = "-"


def accept(
    token: Annotated[
        str | None,
        typer.Argument(
            metavar="TOKEN",
            help="whi_…; `-` or nothing: asked for, or read from a pipe, and so not in the shell's history.",
            show_default=False,
        ),
    ] = None,
    api_url: ApiUrlOption = None,
    name: Annotated[str, typer.Option("--profile", help="What to call the kept address and key.")] = "default",
    show_key: Annotated[bool, typer.Option("--show-key", help="Print the key, too.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Turn an invitation into a key of your own and keep it, as `dispatcher login` does. Works once.

    The key goes into `~/.config/dispatcher/profiles.toml`, which only you can read, and is in use from now on.

    Example: dispatcher users accept --api-url https://webhooks.example.com
    Example: dispatcher users accept - --api-url https://webhooks.example.com --profile production < token.txt
    """
    who = Profile(_address(api_url), "", "the invitation")
    _prepare(name)
    with Api(who) as api:
        made = _accepted(api, _read(token))
    key = str(made["api_key"]["key"])
    try:
        profile_file.write(profile_file.read().kept(name, KeptProfile(who.api_url, key)))
    except ProfileFault as fault:
        message = f"{fault}; the key is made but lost: ask for a new invitation"
        raise ProfileFault(message) from fault
    _tell(made, name, key if show_key else None, output)


def _address(api_url: str | None) -> str:
    """Return where the token goes: where a person says, and nowhere that a folder names."""
    if api_url is None:
        message = "say where the API is; who invited you knows"
        raise typer.BadParameter(message, param_hint="--api-url")
    return api_url.rstrip("/")


def _prepare(name: str) -> None:
    """Prove that a profile of that name can be added: an invitation works once, so it is too late afterwards."""
    if not profile_file.NAME.fullmatch(name):
        message = "is up to 40 letters, digits, - and _"
        raise typer.BadParameter(message, param_hint="--profile")
    profiles = profile_file.read()
    if name in profiles.by_name:
        message = f"there is a profile {name} already; choose another name, or `dispatcher profile remove {name}`"
        raise typer.BadParameter(message, param_hint="--profile")
    profile_file.write(profiles)


def _read(token: str | None) -> str:
    if token in {None, _FROM_INPUT}:
        token = str(typer.prompt("Token", hide_input=True, err=True)) if sys.stdin.isatty() else sys.stdin.readline()
    text = (token or "").strip()
    if not _TOKEN.fullmatch(text):
        message = "an invitation's token is whi_ and 49 letters and digits"
        raise typer.BadParameter(message, param_hint="TOKEN")
    return text


def _accepted(api: Api, token: str) -> dict[str, Any]:
    try:
        made: dict[str, Any] = api.call("POST", "/v1/invitations/accept", {"token": token})
    except CallFailed as fault:
        if fault.status is None or fault.status >= 500:
            message = f"{fault}\n  The token may be used up all the same: try again, and if it is, ask for a new one."
            raise CallFailed(message, fault.status, fault.code) from fault
        raise
    return made


def _tell(made: dict[str, Any], name: str, key: str | None, output: Form) -> None:
    user = made["user"]
    told = ("id", "email", "role", "environment")
    done = {**{member: user[member] for member in told}, "profile": name, "path": str(profile_file.path())}
    words = plain(f"you are {user['email']}, {user['role']} in {user['environment']}")
    words += f"\nkept as {name} in {profile_file.path()}, and in use"
    if (read_ready_file() or {}).get("api_keys"):
        words += f"; but in this folder {ready_file()} goes first: give --profile {name}"
    show_done(done if key is None else {**done, "key": key}, words, output)
    if key is not None and output is Form.TABLE:
        typer.echo(plain(key))
