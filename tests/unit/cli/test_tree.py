"""The tree of commands: examples that are real, help that loads nothing, one way to ask for output."""

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer
import typer.main
from typer.core import TyperGroup

from dispatcher.cli.grammar import Command
from dispatcher.cli.main import app

STREAMS_OF_THE_DAEMON = {("run",), ("receive",), ("config", "table"), ("openapi",)}
"""Their output is a log, or a page: no form of it is a table."""


def leaves(root: typer.Typer) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Give every command with its path."""
    yield from _below(typer.main.get_command(root), ())


def _below(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(command, TyperGroup):
        for name, inner in command.commands.items():
            yield from _below(inner, (*path, name))
    else:
        yield path, command


TREE = dict(leaves(app))
each_command = pytest.mark.parametrize("path", TREE, ids=" ".join)


@each_command
def test_every_command_shows_examples_that_parse(path: tuple[str, ...]) -> None:
    command = TREE[path]
    assert isinstance(command, Command)
    assert command.examples

    for example in command.examples:
        words = shlex.split(re.split(" [<>] ", example)[0])
        assert tuple(words[: 1 + len(path)]) == ("dispatcher", *path)
        command.make_context(path[-1], words[1 + len(path) :])


@each_command
def test_every_command_has_a_sentence_and_every_option_a_word(path: tuple[str, ...]) -> None:
    command = TREE[path]

    first = command.help.partition("\n")[0]
    assert first.endswith((".", ":")) or len(first) > 40
    assert [one.name for one in command.params if not (one.help or getattr(one, "hidden", False))] == []


@each_command
def test_every_command_prints_as_asked(path: tuple[str, ...]) -> None:
    if path in STREAMS_OF_THE_DAEMON:
        return
    options = {name for one in TREE[path].params for name in one.opts}

    assert {"-o", "--output"} <= options


@each_command
def test_lists_can_be_limited_and_taken_whole(path: tuple[str, ...]) -> None:
    if path[-1] != "list" or path[0] == "profile":
        return
    options = {name for one in TREE[path].params for name in one.opts}

    assert {"--limit", "--all"} <= options


def test_a_limit_beyond_every_list_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["endpoints", "list", "--limit", "9" * 20], prog_name="dispatcher")

    assert ended.value.code == 2
    assert "--limit" in capsys.readouterr().err


def test_help_shows_examples_unbroken(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["keys", "create", "--help"], prog_name="dispatcher")

    shown = capsys.readouterr().out
    assert "Example:\n    dispatcher keys create --account acct_5hQ2vN8rTb --env live\n" in shown


@each_command
def test_help_names_values_by_words_and_not_by_types(path: tuple[str, ...]) -> None:
    shown = TREE[path].get_help(TREE[path].make_context(path[-1], [], resilient_parsing=True))

    assert re.findall(r"<(?:str|int|float|path|file|dir|list)\b|[{}]|\.{4,}", shown.partition("Example:")[0]) == []


def test_the_list_of_a_group_tells_whole_sentences(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app(["endpoints", "--help"], prog_name="dispatcher")

    shown = " ".join(capsys.readouterr().out.split())
    assert "add Register an endpoint and print its signing secret, this once. list List endpoints" in shown
    assert "..." not in shown.partition("Commands:")[2]


def modules_after(*words: str) -> set[str]:
    """Return the modules that a command loads, in an interpreter of its own."""
    program = (
        "import sys\n"
        "from dispatcher.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print('\\n'.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True, timeout=50
    )
    return set(done.stderr.splitlines())


HEAVY = {"asyncio", "aiohttp", "aiokafka", "asyncpg", "pydantic", "rich", "structlog", "orjson", "http.client", "ssl"}


def test_the_list_of_commands_loads_none_of_them() -> None:
    loaded = modules_after("--help")

    assert {name for name in loaded if name.startswith("dispatcher.")} == {
        "dispatcher.cli",
        "dispatcher.cli.lazy",
        "dispatcher.cli.main",
        "dispatcher.model",
        "dispatcher.model.errors",
    }
    assert loaded & HEAVY == set()


def test_help_of_one_command_loads_no_server_and_no_other_command() -> None:
    loaded = modules_after("endpoints", "add", "--help")

    assert loaded & (HEAVY - {"asyncio", "http.client", "orjson", "pydantic", "ssl"}) == set()
    assert loaded & {"dispatcher.cli.trigger", "dispatcher.cli.keys", "dispatcher.settings"} == set()
