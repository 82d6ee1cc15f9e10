"""`dispatcher keys`: API keys, straight in the database; it is how the first key comes to be."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import Environment
from dispatcher.cli.database import with_pool
from dispatcher.cli.grammar import Noun
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, say, show_done, show_one, show_page
from dispatcher.model.errors import DispatcherError

if TYPE_CHECKING:
    from dispatcher.ledger.connections import Pool

app = Noun()

_COLUMNS = ("id", "environment", "name…", "created_at", "last_used_at", "revoked_at", "scopes…")

AccountOption = Annotated[
    str | None, typer.Option("--account", help="acct_… of the account; none for operators' keys.")
]


@app.command("create")
def create(
    account: AccountOption = None,
    env: Annotated[Environment, typer.Option("--env", help="Environment the key works in.")] = Environment.TEST,
    operator: Annotated[bool, typer.Option("--operator", help="A key without an account.")] = False,
    scope: Annotated[list[str] | None, typer.Option("--scope", help="Limit what it may do. Repeat it.")] = None,
    name: Annotated[str | None, typer.Option(help="Your own word for it.")] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Make a key and print it, this once.

    Example: dispatcher keys create --account acct_5hQ2vN8rTb --env live
    Example: dispatcher keys create --account acct_5hQ2vN8rTb --scope deliveries:read --scope events:read
    Example: dispatcher keys create --operator
    """
    from dispatcher.ledger.accounts import Tenant
    from dispatcher.ledger.keys import KeyLedger, NewKey, Scope

    if operator == (account is not None):
        message = "give either --account or --operator"
        raise typer.BadParameter(message)
    known = {one.value: one for one in Scope}
    if unknown := [text for text in scope or () if text not in known]:
        message = f"{', '.join(unknown)} is no scope; they are {', '.join(sorted(known))}"
        raise typer.BadParameter(message, param_hint="--scope")

    async def work(pool: "Pool") -> NewKey:
        tenant = None if account is None else Tenant(await _number(pool, account), env.value)
        return await KeyLedger(pool).create(
            tenant, scopes=[known[text] for text in scope] if scope else None, name=name
        )

    try:
        made = with_pool(work)
    except ValueError as fault:
        raise DispatcherError(str(fault)) from fault
    show_one({"id": made.key_id, "key": made.text, "scopes": list(made.scopes), "created_at": made.created_at}, output)
    if output is Form.TABLE:
        say("\nStore the key now: it is not shown again.")


@app.command("list")
def list_(
    account: AccountOption = None,
    limit: LimitOption = 100,
    every: AllOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """List the keys of an account, or the operators' keys.

    Example: dispatcher keys list --account acct_5hQ2vN8rTb
    """
    from dispatcher.ledger.keys import KeyFacts, KeyLedger

    async def work(pool: "Pool") -> list[KeyFacts]:
        return await KeyLedger(pool).page(None if account is None else await _number(pool, account))

    rows: list[dict[str, Any]] = []
    for found in with_pool(work):
        row = found._asdict()
        rows.append({"id": row.pop("key_id"), **row, "scopes": list(found.scopes)})
    show_page(rows, _COLUMNS, output, None if every else limit)


@app.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(help="Id of the key, as `keys list` shows it.")],
    yes: YesOption = False,
    output: FormOption = Form.TABLE,
) -> None:
    """End a key; running processes notice within seconds.

    Example: dispatcher keys revoke 3JqPz7LmA0Qx --yes
    """
    from dispatcher.ledger.keys import KeyLedger

    demand(f"End the key {key} for good? Programs that use it are refused.", yes=yes)

    async def work(pool: "Pool") -> bool:
        return await KeyLedger(pool).revoke(key)

    if not with_pool(work):
        message = f"there is no live key {key}; `dispatcher keys list` shows them"
        raise DispatcherError(message)
    show_done({"id": key, "revoked": True}, f"revoked {key}", output)


async def _number(pool: "Pool", account: str) -> int:
    from dispatcher.ledger.accounts import AccountLedger

    found = await AccountLedger(pool).find(account)
    if found is None:
        message = f"there is no account {account}; `dispatcher accounts create --id {account}` makes it"
        raise DispatcherError(message)
    return found.account_id
