"""`dispatcher users`: people of one's account, each with a key of their own."""

from typing import Annotated, Any, Final

import typer

from dispatcher.cli.accepting import accept
from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import Api, path_to
from dispatcher.cli.completing import user_ids
from dispatcher.cli.grammar import Noun
from dispatcher.cli.keys import life
from dispatcher.cli.listing import show_list
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, say, show_done, show_one
from dispatcher.cli.table import plain
from dispatcher.model.access import Role
from dispatcher.model.errors import DispatcherError

app = Noun()

_COLUMNS = ("id", "email…", "role", "state", "invited_at", "accepted_at", "expires_at")
_LONGEST_DAYS: Final = 30

UserArgument = Annotated[
    str,
    typer.Argument(
        metavar="USER",
        help="Id, usr_…, or e-mail address, as `users list` shows them.",
        autocompletion=user_ids,
        show_default=False,
    ),
]
InvitationOption = Annotated[
    str | None,
    typer.Option("--expires-in", help="Void after this long, like 12h or 30d; 7d by itself.", show_default=False),
]


@app.command("invite")
def invite(
    api: Api,
    email: Annotated[str, typer.Argument(metavar="EMAIL", help="Who; no mail is sent.", show_default=False)],
    role: Annotated[
        Role,
        typer.Option(
            "--role",
            help="owner: may do everything; developer: all but make keys and invite; viewer: may look.",
            show_default=False,
        ),
    ],
    expires_in: InvitationOption = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Invite a person to the account and environment of the key at hand, and print the token that lets them in, once.

    No mail is sent: hand the token over yourself, on a way that nobody else reads. Whoever uses it first, with
    `dispatcher users accept`, gets a key of their own, and the audit log tells what was done with it.

    Example: dispatcher users invite ada@example.com --role developer
    Example: dispatcher users invite bob@example.com --role viewer --expires-in 12h -o json
    """
    _hand_over(api, api.call("POST", "/v1/users", {"email": email, "role": role, **_lasting(expires_in)}), output)


@app.command("list")
def list_(api: Api, limit: LimitOption = 25, every: AllOption = False, output: FormOption = Form.TABLE) -> None:
    """List people, the last invited first; `expires at` is when an open invitation is void.

    Example: dispatcher users list
    Example: dispatcher users list --all -o jsonl
    """
    show_list(api, "/v1/users", _COLUMNS, output, limit=limit, every=every)


@app.command("renew")
def renew(api: Api, user: UserArgument, expires_in: InvitationOption = None, output: FormOption = Form.TABLE) -> None:
    """Invite a person again, in the place of an invitation that expired or a key that was lost.

    The token before is void at once; the key before ends when the new token is used.

    Example: dispatcher users renew ada@example.com
    Example: dispatcher users renew usr_3JqPz7LmA0Qx4bTn --expires-in 1h
    """
    found = _found(api, user)
    _hand_over(api, api.call("POST", path_to("users", found["id"], "invite"), _lasting(expires_in)), output)


@app.command("remove")
def remove(api: Api, user: UserArgument, yes: YesOption = False, output: FormOption = Form.TABLE) -> None:
    """Remove a person: their key and their invitation end. Noticed within seconds.

    Keys that they made for programs stay; `keys list` shows them, and the audit log who made which.

    Example: dispatcher users remove ada@example.com
    Example: dispatcher users remove usr_3JqPz7LmA0Qx4bTn --yes
    """
    found = _found(api, user)
    who = plain(f"{found['email']} ({found['role']}, {found['environment']})")
    demand(f"Remove {who}? Their key is refused from then on.", yes=yes)
    api.call("DELETE", path_to("users", found["id"]))
    show_done({"id": found["id"], "email": found["email"], "removed": True}, f"removed {who}", output)


app.command("accept")(accept)


def _hand_over(api: Api, invited: dict[str, Any], output: Form) -> None:
    show_one(invited, output)
    if output is Form.TABLE:
        say(
            f"\nNo mail is sent. Hand over the token, which is not shown again and works once, and this command:\n"
            f"  dispatcher users accept --api-url {api.who.api_url}"
        )


def _lasting(expires_in: str | None) -> dict[str, Any]:
    return {} if expires_in is None else {"expires_in": life(expires_in, most_days=_LONGEST_DAYS)}


def _found(api: Api, user: str) -> dict[str, Any]:
    """Return the person of an id or an address."""
    member = "email" if "@" in user else "id"
    wanted = user.lower() if member == "email" else user
    for one in api.rows("/v1/users", None):
        if one[member] == wanted:
            return one
    message = f"there is nobody like {plain(user)} here; `dispatcher users list` shows who there is"
    raise DispatcherError(message)
