"""How commands are written: in plain text, with examples that help shows as they are typed.

A command's docstring ends with one or more lines `Example: dispatcher …`; a test parses every one of them.
A command whose first parameter is `api: Api` gets the options that say which API it calls, and as whom; one whose first
parameter is `way: Way` may go to the database instead.
"""

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Final, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from dispatcher.cli.client import Api, ApiKeyOption, ApiUrlOption, EnvironmentOption, ProfileOption, profile
from dispatcher.cli.ways import DatabaseOption, Way

F = TypeVar("F", bound=Callable[..., Any])

_EXAMPLE: Final = re.compile(r"^Example: (.+)$", re.MULTILINE)
_RAW: Final = "\b\n"
"""Before a paragraph: typer keeps its lines as they are."""

_SENTENCE: Final = re.compile(r".+?[.](?=\s|$)", re.DOTALL)
_TYPE: Final = re.compile(r" <(?:list\[)?(str|int|float|path|file|dir)(?: range)?\]?>")
_WORDS: Final[Mapping[str, str]] = {
    "str": " TEXT",
    "int": " NUMBER",
    "float": " NUMBER",
    "path": " PATH",
    "file": " FILE",
    "dir": " FOLDER",
}
"""What a value is called in help, where typer would name a type of Python."""


class Command(TyperCommand):
    """A command whose help ends with its examples. `examples` are what stands behind `Example:`."""

    def __init__(self, *words: Any, **options: Any) -> None:
        text = inspect.cleandoc(options.get("help") or "")
        self.examples: Final = tuple(_EXAMPLE.findall(text))
        options["help"] = _EXAMPLE.sub("", text).strip()
        if self.examples:
            options["epilog"] = _RAW + "\n".join(["Example:", *(f"  {one}" for one in self.examples)])
        super().__init__(*words, **options)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line; what is demanded stands bare, what may be left out in brackets."""
        return [piece.replace("{", "").replace("}", "") for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options with a word for each value instead of a type."""
        records = [(one.param_type_name, one.get_help_record(ctx)) for one in self.get_params(ctx)]
        arguments = [(row[0].partition(" <")[0], row[1]) for kind, row in records if row and kind == "argument"]
        options = [
            (_TYPE.sub(lambda found: _WORDS[found[1]], row[0]), row[1])
            for kind, row in records
            if row and kind == "option"
        ]
        for title, rows in (("Arguments", arguments), ("Options", options)):
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


class Group(TyperGroup):
    """A group whose list tells of each command its whole first sentence."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands in the order in which they stand in the module."""
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, _first_sentence(command.help or "")) for name, command in commands if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Noun(typer.Typer):
    """A group of commands, or a single one, in plain text: help costs no import of a typesetter."""

    def __init__(self) -> None:
        super().__init__(
            cls=Group,
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


def option(name: str, annotation: Any, default: object = None) -> inspect.Parameter:
    """Return an option as a parameter of that name, for commands that share it."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def with_api(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command that makes its `api` or `way` from options of its own; any other is returned as it is."""
    parameters = list(inspect.signature(function).parameters.values())
    kind = parameters[0].annotation if parameters else None
    if kind is Api:
        return _taking(function, parameters[1:], _API_OPTIONS, lambda *chosen: Api(profile(*chosen)))
    if kind is Way:
        return _taking(function, parameters[1:], _WAY_OPTIONS, _way)
    return function


def _taking(
    function: Callable[..., Any],
    own: list[inspect.Parameter],
    options: tuple[inspect.Parameter, ...],
    opened: Callable[..., AbstractContextManager[Any]],
) -> Callable[..., Any]:
    """Return a command with `options` beside its `own`, whose first argument is what `opened` makes of them."""

    @functools.wraps(function)
    def command(**given: Any) -> Any:
        chosen = [given.pop(one.name) for one in options]
        with opened(*chosen) as first:
            return function(first, **given)

    parameters = [*(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own), *options]
    return with_parameters(command, parameters)


def with_parameters(command: Callable[..., Any], parameters: list[inspect.Parameter]) -> Callable[..., Any]:
    """Let a command be seen with these parameters, and return it."""
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def _way(ctx: typer.Context, api_url: str | None, api_key: str | None, name: str | None, database: bool) -> Way:
    sources = (ctx.get_parameter_source(one.name) for one in _WHERE_OPTIONS)
    is_typed = any(source is not None and source.name == "COMMANDLINE" for source in sources)
    return Way(api_url, api_key, name, database=database, is_typed=is_typed)


def _first_sentence(text: str) -> str:
    found = _SENTENCE.match(text)
    return " ".join((found[0] if found else text).split())


_WHERE_OPTIONS: Final = (
    option("api_url", ApiUrlOption),
    option("api_key", ApiKeyOption),
    option("profile_name", ProfileOption),
)
_API_OPTIONS: Final = (*_WHERE_OPTIONS, option("env", EnvironmentOption))
_WAY_OPTIONS: Final = (
    inspect.Parameter("ctx", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
    *_WHERE_OPTIONS,
    option("database", DatabaseOption, default=False),
)
