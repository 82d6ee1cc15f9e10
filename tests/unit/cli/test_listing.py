"""Lists over many pages: how far they have searched is told to who sits at a terminal."""

import asyncio
import io
import json
import sys
from unittest import mock

import pytest
from aiohttp import web

from dispatcher.cli.client import Api
from dispatcher.cli.listing import show_list
from dispatcher.cli.output import Form
from tests.unit.cli.test_client import an_api

PAGES: tuple[tuple[list[dict[str, str]], str | None], ...] = (
    ([], "2026-11-03T09:00:00.000Z"),
    ([{"id": "one"}], "2026-11-02T09:00:00.000Z"),
    ([], "no instant \x1b[2J"),
    ([{"id": "two"}], None),
)


class Screen(io.StringIO):
    """A standard error that keeps everything that was ever written to it, and may be a terminal."""

    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


async def listed(form: Form, *, is_terminal: bool, limit: int = 10) -> tuple[str, str]:
    """List four pages, two of them empty, and return what went to standard output and to standard error."""

    def answer(request: web.Request) -> web.Response:
        n = int(request.query.get("after", 0))
        rows, searched_to = PAGES[n]
        following = str(n + 1) if n + 1 < len(PAGES) else None
        return web.json_response({"data": rows, "next": following, "searched_to": searched_to})

    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True), Screen(is_terminal=is_terminal)
    async with an_api(answer) as who:

        def show() -> None:
            with mock.patch.multiple(sys, stdout=out, stderr=err), Api(who) as api:
                show_list(api, "/v1/deliveries", ("id",), form, limit=limit, every=False)

        await asyncio.to_thread(show)
    return out.buffer.getvalue().decode(), err.getvalue()


@pytest.mark.parametrize("form", Form)
async def test_a_search_over_empty_pages_tells_at_a_terminal_how_far_it_is(form: Form) -> None:
    out, err = await listed(form, is_terminal=True)

    shown = [line for line in err.split("\r\x1b[K") if line]
    # Each is wiped away before anything else comes.
    assert err == "".join(f"\r\x1b[K{line}\r\x1b[K" for line in shown)
    assert [line.partition(",")[0].partition(" …")[0] for line in shown] == ["0 found", "1 found", "1 found"]
    assert "searched back to 2026-11-0" in shown[0]
    assert "\x1b" not in shown[2]
    assert "one" in out
    assert form is not Form.JSONL or [json.loads(line)["id"] for line in out.splitlines()] == ["one", "two"]


@pytest.mark.parametrize("form", Form)
async def test_where_nobody_looks_nothing_is_told(form: Form) -> None:
    assert (await listed(form, is_terminal=False))[1] == ""
