"""`dispatcher accounts`: customers of the verification product."""

from typing import Annotated, Any

import typer

from dispatcher.cli.database import with_pool
from dispatcher.cli.grammar import Noun
from dispatcher.cli.listing import collect, show_list
from dispatcher.cli.output import AllOption, Form, FormOption, LimitOption, show_one, show_page
from dispatcher.cli.ways import Way
from dispatcher.model.errors import AccountTaken, DispatcherError
from dispatcher.model.ids import ACCOUNT_ID

app = Noun()

_COLUMNS = ("id", "name…", "created_at")


@app.command("create")
def create(
    way: Way,
    account: Annotated[
        str | None, typer.Option("--id", help="acct_… as producers name it; random when absent.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Your own word for it.")] = None,
    output: FormOption = Form.TABLE,
) -> None:
    """Make an account. Producers may name accounts before: those are made by themselves.

    Example: dispatcher accounts create --id acct_5hQ2vN8rTb --name 'Example Bank'
    """
    if account is not None and not ACCOUNT_ID.fullmatch(account):
        message = "an account looks like acct_ and 10 to 40 letters and digits"
        raise typer.BadParameter(message, param_hint="--id")
    api = way.operator()
    if api is None:
        show_one(_create(account, name), output)
        return
    wish = {"id": account, "name": name}
    body = {member: value for member, value in wish.items() if value is not None}
    show_one(api.call("POST", "/v1/accounts", body), output)


@app.command("list")
def list_(way: Way, limit: LimitOption = 100, every: AllOption = False, output: FormOption = Form.TABLE) -> None:
    """List accounts, newest first.

    Example: dispatcher accounts list -o json
    """
    api = way.operator()
    if api is None:
        show_page(_stored(limit, every=every), _COLUMNS, output, None if every else limit)
    else:
        show_list(api, "/v1/accounts", _COLUMNS, output, limit=limit, every=every)


def _create(account: str | None, name: str | None) -> dict[str, Any]:
    from dispatcher.ledger.accounts import Account, AccountLedger
    from dispatcher.ledger.connections import Pool

    async def work(pool: Pool) -> Account:
        return await AccountLedger(pool).create(account, name=name)

    try:
        return _shown(with_pool(work))
    except AccountTaken as fault:
        message = f"{fault}; `dispatcher keys create --account {account}` gives it a key"
        raise DispatcherError(message) from fault


def _stored(limit: int, *, every: bool) -> list[dict[str, Any]]:
    from dispatcher.ledger.accounts import Account, AccountLedger
    from dispatcher.ledger.connections import Pool

    async def work(pool: Pool) -> list[Account]:
        book = AccountLedger(pool)
        return await collect(
            lambda last, n: book.page(below=None if last is None else last.account_id, limit=n),
            limit=limit,
            every=every,
        )

    return [_shown(found) for found in with_pool(work)]


def _shown(account: Any) -> dict[str, Any]:
    return {"id": account.public_id, "object": "account", "name": account.name, "created_at": account.created_at}
