"""`dispatcher profile`: addresses and keys of dispatchers, kept by name in a file."""

from typing import Annotated

import typer

from dispatcher.cli import profile_file
from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import ApiUrlOption, Profile
from dispatcher.cli.grammar import Noun
from dispatcher.cli.login import login
from dispatcher.cli.output import Form, FormOption, show_done, show_rows

app = Noun()

_COLUMNS = ("name", "in_use", "api_url…", "environment", "key")

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="As `profile list` shows it.")]


@app.command("add")
def add(name: NameArgument, api_url: ApiUrlOption = None, output: FormOption = Form.TABLE) -> None:
    """Keep an address and a key under a name, as `dispatcher login` does.

    Example: dispatcher profile add production --api-url https://webhooks.example.com
    """
    login(api_url, name, output)


@app.command("list")
def list_(output: FormOption = Form.TABLE) -> None:
    """List the profiles; of each key only its public part.

    Example: dispatcher profile list
    """
    kept = profile_file.read()
    rows = [
        {
            "name": name,
            "in_use": name == kept.current,
            "api_url": one.api_url,
            "environment": Profile(one.api_url, one.api_key).environment,
            "key": "_".join(one.api_key.split("_")[:3]),
        }
        for name, one in sorted(kept.by_name.items())
    ]
    show_rows(rows, _COLUMNS, output)


@app.command("use")
def use(name: NameArgument, output: FormOption = Form.TABLE) -> None:
    """Use a profile where neither options, nor the environment, nor an embedded dispatcher here say otherwise.

    Example: dispatcher profile use production
    """
    profile_file.write(profile_file.read().used(name))
    show_done({"name": name, "in_use": True}, f"{name} is in use", output)


@app.command("remove")
def remove(name: NameArgument, yes: YesOption = False, output: FormOption = Form.TABLE) -> None:
    """Forget a profile. The key itself stays valid: `dispatcher keys revoke` ends it.

    Example: dispatcher profile remove production --yes
    """
    left = profile_file.read().removed(name)
    demand(f"Forget the profile {name} and its key?", yes=yes)
    profile_file.write(left)
    show_done({"name": name, "removed": True}, f"removed {name}", output)
