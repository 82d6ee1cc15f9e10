"""What a person does about several deliveries: the report is whole, whatever becomes of one of them."""

from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from tests.support.terminal import Said, Terminal
from tests.unit.cli.test_client import an_api

IDS = ("dlv_a", "dlv_b", "dlv_c", "dlv_d")


async def resend(folder: Path, form: str, refuse: Callable[[str, int], web.Response | None]) -> tuple[Said, list[str]]:
    """Send four again; `refuse` is told the id and how often it came. Returns what was said, and what was done."""
    asked: list[str] = []
    done: list[str] = []

    def answer(request: web.Request) -> web.Response:
        one = request.path.split("/")[3]
        asked.append(one)
        refusal = refuse(one, asked.count(one))
        if refusal is not None:
            return refusal
        done.append(one)
        return web.json_response({"id": one, "status": "retrying", "attempts": 1})

    async with an_api(answer) as who:
        terminal = Terminal(
            {
                "DISPATCHER_API_URL": who.api_url,
                "DISPATCHER_API_KEY": who.api_key,
                "DISPATCHER_DATA_DIR": str(folder),
            }
        )
        return await terminal.run("deliveries", "resend", *IDS, "-o", form, code=None), done


def problem(status: int, code: str) -> web.Response:
    return web.json_response({"title": "No", "code": code}, status=status)


def told(said: Said, form: str) -> list[str]:
    if form == "table":
        return [line.split()[0] for line in said.out.splitlines()[1:]]
    return [row["id"] for row in (said.json if form == "json" else said.lines)]


forms = pytest.mark.parametrize("form", ["table", "json", "jsonl"])


@forms
async def test_one_that_is_refused_hides_and_stops_none_of_the_others(form: str, tmp_path: Path) -> None:
    said, done = await resend(tmp_path, form, lambda one, _: problem(404, "not_found") if one == "dlv_b" else None)

    assert done == told(said, form) == ["dlv_a", "dlv_c", "dlv_d"]
    assert "dlv_b: No (404, not_found)" in said.err
    assert "not done" not in said.err
    assert said.code == 1


@forms
@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_where_the_next_would_fare_no_better_what_is_left_is_named(
    form: str, status: int, tmp_path: Path
) -> None:
    refusals = {"dlv_b": (404, "not_found"), "dlv_c": (status, "no")}

    said, done = await resend(tmp_path, form, lambda one, _: problem(*refusals[one]) if one in refusals else None)

    assert done == told(said, form) == ["dlv_a"]
    assert "2 not done: dlv_c dlv_d" in said.err
    assert "dlv_b: No (404, not_found)" in said.err
    assert f"({status}, no)" in said.err
    assert said.code == 1


async def test_an_api_that_says_slow_down_is_obeyed_and_each_is_done_once(tmp_path: Path) -> None:
    busy = web.Response

    said, done = await resend(
        tmp_path, "table", lambda _, n: busy(status=429, headers={"Retry-After": "0"}) if n < 3 else None
    )

    assert done == told(said, "table") == list(IDS)
    assert (said.code, said.err) == (0, "")


async def test_an_api_that_stays_busy_is_left_with_what_is_not_done(tmp_path: Path) -> None:
    busy = web.Response

    said, done = await resend(
        tmp_path, "jsonl", lambda one, _: busy(status=429, headers={"Retry-After": "0"}) if one == "dlv_b" else None
    )

    assert done == told(said, "jsonl") == ["dlv_a"]
    assert "3 not done: dlv_b dlv_c dlv_d" in said.err
    assert said.code == 1
