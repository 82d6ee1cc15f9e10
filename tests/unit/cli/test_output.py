"""What commands print: columns for people, every field for programs."""

import datetime as dt
import json
from typing import Any

import pytest

from dispatcher.cli.output import Form, show_one, show_rows

ROWS: list[dict[str, Any]] = [
    {"id": "we_1", "is_on": True, "types": ["a", "b"], "note": None, "extra": {"x": 1}},
    {"id": "we_2 [bold]é", "is_on": False, "types": [], "note": "n", "extra": {}},
]
Printed = pytest.CaptureFixture[str]


def lines_of(capsys: Printed) -> list[str]:
    return [line.rstrip() for line in capsys.readouterr().out.splitlines()]


def test_a_table_has_the_columns_asked_for_and_reads_well(capsys: Printed) -> None:
    show_rows(ROWS, ("id", "is_on", "types", "note", "nothing"), Form.TABLE)

    assert lines_of(capsys) == [
        "id            is on  types  note  nothing",
        "we_1          yes    a, b   -     -",
        "we_2 [bold]é  no            n     -",
    ]


def test_an_empty_table_says_so_beside_the_output(capsys: Printed) -> None:
    show_rows([], ("id",), Form.TABLE)

    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "nothing found\n")


def test_piped_tables_keep_long_values_whole(capsys: Printed) -> None:
    url = "https://example.com/" + "x" * 150

    show_rows([{"id": "we_1", "url": url}], ("id", "url"), Form.TABLE)

    assert url in capsys.readouterr().out


def test_json_is_one_document_with_every_field(capsys: Printed) -> None:
    show_rows(ROWS, ("id",), Form.JSON)

    assert json.loads(capsys.readouterr().out) == ROWS


@pytest.mark.parametrize(("form", "expected"), [(Form.JSON, "[]\n"), (Form.JSONL, "")])
def test_nothing_is_still_valid_for_programs(capsys: Printed, form: Form, expected: str) -> None:
    show_rows([], ("id",), form)

    printed = capsys.readouterr()
    assert (printed.out, printed.err) == (expected, "")


def test_json_lines_are_one_object_each(capsys: Printed) -> None:
    show_rows(ROWS, ("id",), Form.JSONL)

    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == ROWS


def test_one_object_is_names_and_values_for_people(capsys: Printed) -> None:
    show_one({"id": "we_1", "is_verified": False, "limits": {"rate": 1}, "paused": None}, Form.TABLE)

    assert lines_of(capsys) == ["id           we_1", "is_verified  no", "limits.rate  1", "paused       -"]


@pytest.mark.parametrize(("form", "n_lines"), [(Form.JSON, 8), (Form.JSONL, 1)])
def test_one_object_is_json_for_programs(capsys: Printed, form: Form, n_lines: int) -> None:
    row = {"id": "we_1", "types": ["a", "b"], "note": None}

    show_one(row, form)

    out = capsys.readouterr().out
    assert json.loads(out) == row
    assert len(out.splitlines()) == n_lines


def test_members_of_members_have_lines_of_their_own(capsys: Printed) -> None:
    show_one({"id": "e", "data": {"verification": {"id": "ver_1"}, "links": {}}}, Form.TABLE)

    assert lines_of(capsys) == ["id                    e", "data.verification.id  ver_1", "data.links            {}"]


@pytest.mark.parametrize("text", ["yesterday", "2020-01-01", "2020-01-01T00:00:00"])
def test_what_is_no_aware_instant_is_told_as_it_is(capsys: Printed, text: str) -> None:
    show_one({"headers": {"x_at": text, "\x1b[2J": text}}, Form.TABLE)
    show_rows([{"x_at": text}], ("x_at",), Form.TABLE)

    assert lines_of(capsys) == [f"headers.x_at     {text}", f"headers.\\x1b[2J  {text}", "x at", text]


def test_an_instant_of_the_ledger_looks_like_one_of_the_api(capsys: Printed) -> None:
    berlin = dt.timezone(dt.timedelta(hours=1))
    show_one({"made_at": dt.datetime(2020, 1, 1, 1, 0, 0, 123_456, tzinfo=berlin)}, Form.TABLE)

    assert lines_of(capsys)[0].startswith("made_at  2020-01-01T00:00:00.123Z (")


def test_nothing_to_show_is_no_fault(capsys: Printed) -> None:
    show_one({}, Form.TABLE)

    assert capsys.readouterr().out == ""


def test_an_instant_is_told_from_now_and_a_number_of_seconds_is_not(capsys: Printed) -> None:
    show_one({"signed_at": 1_795_698_262, "made_at": "2020-01-01T00:00:00Z"}, Form.TABLE)

    signed, made = lines_of(capsys)
    assert signed.endswith("1795698262")
    assert made.endswith("d ago)")
