"""`dispatcher keys`: one's own API keys through the API, other accounts' and operators' for who runs the dispatcher."""

from typing import Annotated, Any, Final

import typer

from dispatcher.cli import key_book
from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import Environment, path_to
from dispatcher.cli.grammar import Noun
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, say, show_done, show_one, show_page
from dispatcher.cli.times import parse_duration
from dispatcher.cli.ways import Way
from dispatcher.model.errors import DispatcherError

app = Noun()

_COLUMNS = (
    "id",
    "environment",
    "name…",
    "user_id",
    "created_at",
    "last_used_at",
    "expires_at",
    "revoked_at",
    "scopes…",
)

_SHORTEST_LIFE_SECONDS: Final = 60
_LONGEST_LIFE_DAYS: Final = 3_650
"""What the API allows."""

_SCOPES_HELP: Final = (
    "Only this: endpoints:read, endpoints:write, deliveries:read, deliveries:write, events:read, payloads:read, "
    "keys:write or listen. Repeat it; everything by itself."
)

AccountOption = Annotated[
    str | None, typer.Option("--account", help="acct_… of the account; by itself that of the key at hand.")
]
OperatorOption = Annotated[bool, typer.Option("--operator", help="Keys without an account; in the database alone.")]
KeyEnvironmentOption = Annotated[
    Environment | None, typer.Option("--env", help="Environment of the key; test by itself.", show_default=False)
]


@app.command("create")
def create(
    way: Way,
    account: AccountOption = None,
    env: KeyEnvironmentOption = None,
    operator: OperatorOption = False,
    scope: Annotated[list[str] | None, typer.Option("--scope", help=_SCOPES_HELP)] = None,
    name: Annotated[str | None, typer.Option(help="Your own word for it.")] = None,
    expires_in: Annotated[
        str | None, typer.Option("--expires-in", help="End it by itself after this long, like 12h or 90d.")
    ] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Make a key and print it, this once.

    It is for the account of the key at hand, for any --account, or an operator's. The latter is made straight in the
    database: it is how the first key comes to be.

    Example: dispatcher keys create --account acct_5hQ2vN8rTb --env live
    Example: dispatcher keys create --account acct_5hQ2vN8rTb --scope deliveries:read --scope events:read
    Example: dispatcher keys create --operator
    Example: dispatcher keys create --name deploy --scope endpoints:read --expires-in 90d
    """
    _demand_one(account, operator=operator)
    wish = key_book.Wish(
        scope or None, name, None if expires_in is None else life(expires_in, most_days=_LONGEST_LIFE_DAYS)
    )
    show_one(_made(way, account, env, wish, operator=operator), output)
    if output is Form.TABLE:
        say("\nStore the key now: it is not shown again.")


@app.command("list")
def list_(
    way: Way,
    account: AccountOption = None,
    env: KeyEnvironmentOption = None,
    operator: OperatorOption = False,
    limit: LimitOption = 100,
    every: AllOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List keys: those of one's own account, of any --account, or the --operator's.

    One's own come through the API, the others from the database.

    Example: dispatcher keys list
    Example: dispatcher keys list --account acct_5hQ2vN8rTb
    """
    _demand_one(account, operator=operator)
    if account is None and not operator:
        rows = way.account(env).get("/v1/api_keys")["data"]
    else:
        way.database("listing the keys of others")
        rows = [one for one in key_book.rows(account) if env is None or one["environment"] == env]
    show_page(rows, _COLUMNS, output, None if every else limit)


@app.command("revoke")
def revoke(
    way: Way,
    key: Annotated[str, typer.Argument(metavar="KEY", help="Its id, as `keys list` shows it.")],
    account: AccountOption = None,
    env: KeyEnvironmentOption = None,
    operator: OperatorOption = False,
    yes: YesOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """End a key: one of one's own account, of any --account, or an --operator's. Noticed within seconds.

    Example: dispatcher keys revoke 3JqPz7LmA0Qx --yes
    Example: dispatcher keys revoke 3JqPz7LmA0Qx --account acct_5hQ2vN8rTb
    """
    _demand_one(account, operator=operator)
    demand(f"End the key {key} for good? Programs that use it are refused.", yes=yes)
    if account is None and not operator:
        way.account(env).call("DELETE", path_to("api_keys", key))
    else:
        way.database("ending the keys of others")
        if not key_book.revoke(account, key):
            whose = "--operator" if account is None else f"--account {account}"
            message = f"there is no live key {key} there; `dispatcher keys list {whose}` shows them"
            raise DispatcherError(message)
    show_done({"id": key, "revoked": True}, f"revoked {key}", output)


def _made(
    way: Way, account: str | None, env: Environment | None, wish: key_book.Wish, *, operator: bool
) -> dict[str, Any]:
    body = {member: value for member, value in wish._asdict().items() if value is not None}
    if operator:
        way.database("making an operator's key")
        return key_book.create(None, None, wish)
    api = way.account(env) if account is None else way.operator()
    if api is None:
        return key_book.create(account, env or Environment.TEST, wish)
    path = "/v1/api_keys"
    if account is not None:
        path = path_to("accounts", account, "api_keys")
        body["environment"] = env or Environment.TEST
    made: dict[str, Any] = api.call("POST", path, body)
    return made


def life(text: str, *, most_days: int) -> int:
    """Return the seconds that something is to live; a usage error of `--expires-in` when the API would not allow it."""
    seconds = parse_duration(text)
    if seconds is None or not _SHORTEST_LIFE_SECONDS <= seconds <= most_days * 86_400:
        message = f"must look like 12h or 90d; from 1m to {most_days}d"
        raise typer.BadParameter(message, param_hint="--expires-in")
    return int(seconds)


def _demand_one(account: str | None, *, operator: bool) -> None:
    if operator and account is not None:
        message = "give either --account or --operator"
        raise typer.BadParameter(message)
