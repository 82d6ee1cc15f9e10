"""Bodies that strangers write."""

import asyncio
import contextlib
import json

import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.api.json_body import parse_json, read_json
from dispatcher.api.problems import Problem, ProblemCode

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


@given(plain)
def test_what_json_can_say_is_read_as_it_is(document: object) -> None:
    assert parse_json(json.dumps(document).encode(), max_depth=64) == document


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused_never_stumbled_over(body: bytes) -> None:
    with contextlib.suppress(Problem):
        parse_json(body, max_depth=8)


@given(st.text('[]{}":,0\\u d8', max_size=60))
def test_almost_json_is_read_or_refused_never_stumbled_over(text: str) -> None:
    with contextlib.suppress(Problem):
        parse_json(text.encode(), max_depth=8)


@pytest.mark.parametrize(("depth", "passes"), [(3, True), (4, False)])
def test_depth_is_counted_in_levels_of_nesting(depth: int, passes: bool) -> None:
    body = b"[" * depth + b"]" * depth
    if passes:
        parse_json(body, max_depth=3)
    else:
        with pytest.raises(Problem) as caught:
            parse_json(body, max_depth=3)
        assert caught.value.code == "json_too_deep"


def test_every_forbidden_character_is_pointed_at() -> None:
    with pytest.raises(Problem) as caught:
        parse_json(b'{"a": ["x", "\\u0000"], "b/c": "\\u0000"}', max_depth=8)

    assert {fault.where for fault in caught.value.faults} == {"/a/1", "/b~1c"}


async def test_a_client_that_leaves_within_its_body_made_a_malformed_request() -> None:
    protocol = BaseProtocol(asyncio.get_running_loop())
    content = StreamReader(protocol, limit=1024)
    content.feed_data(b'{"url":')
    content.set_exception(ConnectionResetError("cut"))
    headers = {"Content-Type": "application/json", "Content-Length": "100"}

    with pytest.raises(Problem) as refused:
        await read_json(
            make_mocked_request("POST", "/", headers=headers, payload=content),
            max_bytes=1024,
            max_depth=32,
            seconds=1.0,
        )

    assert refused.value.kind is ProblemCode.MALFORMED_REQUEST
