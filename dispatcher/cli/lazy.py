"""Commands that load when they are named: the list of them costs no import."""

from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any, ClassVar, NamedTuple

import typer
import typer.main
from typer.core import TyperGroup


class Entry(NamedTuple):
    """Where a command is found, `module:name` of a function or a group, and its line in the list of commands."""

    place: str
    summary: str


class LazyGroup(TyperGroup):
    """A group whose commands stand in modules; one is imported when it is named, none for the list."""

    entries: ClassVar[Mapping[str, Entry]] = {}

    def __init__(self, *words: Any, **options: Any) -> None:
        super().__init__(*words, **options)
        self.commands = _Shelf(self.entries, dict(self.commands))

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002 - as the base class calls it
        """Write the list of commands from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])


class _Shelf(MutableMapping[str, Any]):
    """Commands by name, made at the first look; knows all names without a look."""

    def __init__(self, entries: Mapping[str, Entry], made: dict[str, Any]) -> None:
        self._entries = entries
        self._made = made

    def __getitem__(self, name: str) -> Any:
        if name not in self._made:
            self._made[name] = _load(name, self._entries[name])
        return self._made[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._made[name] = command

    def __delitem__(self, name: str) -> None:
        del self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._entries, **self._made})

    def __len__(self) -> int:
        return len({**self._entries, **self._made})


def _load(name: str, entry: Entry) -> Any:
    module, _, attribute = entry.place.partition(":")
    found = getattr(import_module(module), attribute)
    if isinstance(found, typer.Typer):
        command = typer.main.get_command(found)
        command.name, command.help = name, entry.summary
        return command
    from dispatcher.cli.grammar import Noun

    alone = Noun()
    alone.command(name)(found)
    return typer.main.get_command(alone)
