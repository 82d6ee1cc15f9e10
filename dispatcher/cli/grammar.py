"""How commands are written: in plain text, with examples that help shows as they are typed.

A command's docstring ends with one or more lines `Example: dispatcher …`; a test parses every one of them.
A command whose first parameter is `api: Api` gets the options that say which API it calls, and as whom.
"""

import functools
import inspect
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import typer
from typer.core import TyperCommand

from dispatcher.cli.client import Api, ApiKeyOption, ApiUrlOption, EnvironmentOption, ProfileOption, profile

F = TypeVar("F", bound=Callable[..., Any])

_EXAMPLE: Final = re.compile(r"^Example: (.+)$", re.MULTILINE)
_RAW: Final = "\b\n"
"""Before a paragraph: typer keeps its lines as they are."""


class Command(TyperCommand):
    """A command whose help ends with its examples. `examples` are what stands behind `Example:`."""

    def __init__(self, *words: Any, **options: Any) -> None:
        text = inspect.cleandoc(options.get("help") or "")
        self.examples: Final = tuple(_EXAMPLE.findall(text))
        options["help"] = _EXAMPLE.sub("", text).strip()
        if self.examples:
            options["epilog"] = _RAW + "\n".join(["Example:", *(f"  {one}" for one in self.examples)])
        super().__init__(*words, **options)


class Noun(typer.Typer):
    """A group of commands, or a single one, in plain text: help costs no import of a typesetter."""

    def __init__(self) -> None:
        super().__init__(
            no_args_is_help=True,
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings={"help_option_names": ["-h", "--help"]},
        )

    def command(self, name: str | None = None, **options: Any) -> Callable[[F], F]:
        """Register a function as a command of that name."""
        register = super().command(name, cls=options.pop("cls", Command), **options)

        def take(function: F) -> F:
            register(with_api(function))
            return function

        return take


def with_api(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that makes its `api` from options of its own; one without `api` is returned as it is."""
    shape = inspect.signature(function)
    first = next(iter(shape.parameters.values()), None)
    if first is None or first.annotation is not Api:
        return function

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        chosen = [given.pop(one.name) for one in _OPTIONS]
        with Api(profile(*chosen)) as api:
            return function(api, **given)

    kept = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in list(shape.parameters.values())[1:]]
    parameters = [*kept, *_OPTIONS]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _option(name: str, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


_OPTIONS: Final = (
    _option("api_url", ApiUrlOption),
    _option("api_key", ApiKeyOption),
    _option("profile_name", ProfileOption),
    _option("env", EnvironmentOption),
)
