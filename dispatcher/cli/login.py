"""`dispatcher login`: keep the address and key of a dispatcher under a name."""

import sys
from typing import Annotated

import typer

from dispatcher.cli import profile_file
from dispatcher.cli.client import Api, ApiUrlOption, Profile
from dispatcher.cli.output import Form, FormOption, show_done
from dispatcher.cli.profile_file import KeptProfile
from dispatcher.cli.refusals import CallFailed


def login(
    api_url: ApiUrlOption = None,
    name: Annotated[str, typer.Option("--name", help="What to call it.")] = "default",
    output: FormOption = Form.TABLE,
) -> None:
    """Keep an address and a key, and use them from now on. Asks for the key; without a terminal it is read from a pipe.

    The key is tried first. It goes into `~/.config/dispatcher/profiles.toml`, which only you can read.

    Example: dispatcher login --api-url https://webhooks.example.com --name production
    """
    if not profile_file.NAME.fullmatch(name):
        message = "is up to 40 letters, digits, - and _"
        raise typer.BadParameter(message, param_hint="--name")
    on_terminal = sys.stdin.isatty()
    if api_url is None:
        if not on_terminal:
            message = "say where the API is"
            raise typer.BadParameter(message, param_hint="--api-url")
        api_url = str(typer.prompt("Where is the API", default="http://127.0.0.1:8080", err=True))
    key = str(typer.prompt("API key", hide_input=True, err=True)) if on_terminal else sys.stdin.readline()
    who = Profile(api_url.rstrip("/"), key.strip(), "what you typed")
    _try(who)
    profile_file.write(profile_file.read().kept(name, KeptProfile(who.api_url, who.api_key)))
    done = {"name": name, "api_url": who.api_url, "environment": who.environment, "path": str(profile_file.path())}
    show_done(done, f"kept as {name} in {profile_file.path()}, and in use", output)


def _try(who: Profile) -> None:
    """Call the API once; a key that may do little is a good key, too."""
    with Api(who) as api:
        try:
            api.get("/v1/event_types")
        except CallFailed as fault:
            if fault.status != 403:
                raise
