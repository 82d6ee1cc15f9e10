"""Which way an operator's command goes: through the API, or straight to the database.

| | goes |
| --- | --- |
| `--database` | to the database |
| `--api-url`, `--api-key` or `--profile` typed | through the API |
| an operator's key in the environment | through the API |
| a database that is configured, or an embedded dispatcher's | to the database |
| an operator's key in the profile in use | through the API |

What goes through the API is noted in the operators' log; what goes to the database is not.
"""

from contextlib import ExitStack
from types import TracebackType
from typing import Annotated, Self

import typer

from dispatcher.cli.client import Api, Environment, Profile, profile
from dispatcher.cli.database import is_known
from dispatcher.cli.refusals import CallFailed

DatabaseOption = Annotated[
    bool,
    typer.Option(
        "--database",
        help="Go to the database instead of the API. That is so by itself, unless --api-url, --api-key or --profile is "
        "typed or an operator's key is at hand.",
    ),
]


class Way:
    """What was said of the API and the database. `is_typed`: on the command line itself. Enter it."""

    def __init__(
        self, api_url: str | None, api_key: str | None, name: str | None, *, database: bool, is_typed: bool
    ) -> None:
        if database and is_typed:
            message = "goes without --api-url, --api-key and --profile"
            raise typer.BadParameter(message, param_hint="--database")
        self._said = (api_url, api_key, name)
        self._database = database
        self._is_typed = is_typed
        self._open = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()

    def operator(self) -> Api | None:
        """Return the API for an operator's call, None where the database is to be asked.

        Raises:
            CallFailed: there is neither.
        """
        if self._database:
            return None
        who = self._who()
        if self._is_typed or self._names_operator():
            return self._entered(who or profile(*self._said))
        is_in_environment = self._said != (None, None, None)
        if who is not None and who.is_operators and (is_in_environment or not is_known()):
            return self._entered(who)
        if not is_known():
            message = (
                "this takes an operator's key or the database: give --api-key whd_op_…, or set "
                "DISPATCHER_DATABASE__URL; `dispatcher keys create --operator` makes a key where the database is"
            )
            raise CallFailed(message)
        return None

    def account(self, environment: Environment | None) -> Api:
        """Return the API as the account sees it whose key is at hand.

        Raises:
            CallFailed: no address or no key is known.
        """
        if self._database:
            message = "say whose: --account, or --operator"
            raise typer.BadParameter(message, param_hint="--database")
        return self._entered(profile(*self._said, environment))

    def database(self, what: str) -> None:
        """Return where the API has no such call; a usage error when it was asked for."""
        if self._is_typed:
            message = f"{what} is done in the database alone: leave out --api-url, --api-key and --profile"
            raise typer.BadParameter(message)

    def _names_operator(self) -> bool:
        """Tell whether the key itself was given and is an operator's: it means the API, and says so if it cannot."""
        _, api_key, _ = self._said
        return api_key is not None and Profile("", api_key).is_operators

    def _who(self) -> Profile | None:
        try:
            return profile(*self._said)
        except CallFailed:
            return None

    def _entered(self, who: Profile) -> Api:
        return self._open.enter_context(Api(who))
