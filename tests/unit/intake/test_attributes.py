"""Attributes: what the quick look at a record's headers takes is what the close one takes."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from dispatcher.intake.attributes import Headers, Refused, _read_one_by_one, read_headers

NAMES = ["ce_id", "ce_source", "ce_type", "ce_time", "ce_dataschema", "ce_traceparent", "content-type"]
STRANGERS = ["CE_ID", "Content-Type", "ce_other", "traceparent", "é"]
VALUES = st.one_of(st.none(), st.binary(max_size=12), st.text(max_size=12).map(str.encode), st.just(b"x" * 40))
HEADERS = st.one_of(
    st.dictionaries(st.sampled_from(NAMES), st.text(max_size=40).map(str.encode)).map(lambda read: tuple(read.items())),
    st.lists(st.tuples(st.sampled_from(NAMES + STRANGERS), VALUES), max_size=8).map(tuple),
)


def answer(read: Any, headers: Headers, n_bytes: int, n_headers: int) -> Any:
    try:
        return read(headers, n_bytes, n_headers)
    except Refused as refused:
        return refused.reason, refused.detail


@given(headers=HEADERS, n_bytes=st.integers(0, 400), n_headers=st.integers(0, 8))
@example(headers=(("ce_id", b"1"), ("ce_id", b"1")), n_bytes=400, n_headers=8)
@example(headers=(("ce_id", b"1"), ("CE_ID", b"1")), n_bytes=400, n_headers=8)
@example(headers=(("ce_id", b"1"), ("ce_source", None)), n_bytes=400, n_headers=8)
@example(headers=(("ce_id", b"\xff"), ("ce_source", b"1")), n_bytes=400, n_headers=8)
@example(headers=(("ce_id", "é".encode() * 150), ("ce_source", b"1")), n_bytes=300, n_headers=8)
@example(headers=(("ce_id", b"1"), ("ce_source", b"1")), n_bytes=400, n_headers=1)
def test_headers_are_taken_and_refused_as_if_read_one_by_one(headers: Headers, n_bytes: int, n_headers: int) -> None:
    assert answer(read_headers, headers, n_bytes, n_headers) == answer(_read_one_by_one, headers, n_bytes, n_headers)
