import datetime as dt
import json
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.model.errors import ConfigurationError
from dispatcher.policy.catalogue import Catalogue, Origin
from dispatcher.policy.projection import Envelope, Projection, build_body, show_timestamp
from dispatcher.policy.schema_files import (
    API_VERSION,
    EVENT_URN,
    EventSchemas,
    load_catalogue,
    load_event_schemas,
    load_example,
    schema_folder,
)

FOLDER = schema_folder()
PROJECTION = Projection(load_event_schemas(FOLDER))
WHOLE = jsonschema_rs.Draft202012Validator(PROJECTION.whole)
CATALOGUE = Catalogue.from_document(load_catalogue(FOLDER))
TYPES = [kind.name for kind in CATALOGUE.types]
PRODUCER_TYPES = [kind.name for kind in CATALOGUE.types if kind.origin is Origin.PRODUCER]

_scalars = st.sampled_from([None, True, 0, -7, 1.5, "", "Erika", "\x00", "日本"])
_names = st.sampled_from(
    [
        "verification",
        "check",
        "checks",
        "monitor",
        "previous",
        "links",
        "self",
        "metadata",
        "id",
        "outcome",
        "person",
        "reason_codes",
        "changed_fields",
        "client_reference",
        "personal_data",
    ]
)
_anything = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_names, inner, max_size=6),
    max_leaves=30,
)


def example(name: str = "verification.completed") -> dict[str, Any]:
    return orjson.loads(load_example(FOLDER, name))  # type: ignore[no-any-return]


def envelope(body: dict[str, Any], data: dict[str, Any]) -> Envelope:
    return Envelope(
        id=body["id"],
        type=body["type"],
        timestamp=show_timestamp(dt.datetime.fromisoformat(body["timestamp"])),
        api_version=API_VERSION,
        environment=body["environment"],
        account_id=body["account_id"],
        test=body["test"],
        data=data,
    )


@pytest.mark.parametrize("name", TYPES)
def test_the_body_of_an_example_is_its_published_bytes(name: str) -> None:
    body = example(name)

    assert build_body(envelope(body, body["data"])) == load_example(FOLDER, name)


@pytest.mark.parametrize("name", PRODUCER_TYPES)
def test_the_schema_lets_every_example_through_whole(name: str) -> None:
    data = example(name)["data"]

    projected = PROJECTION.apply(data)

    assert orjson.dumps(projected.data) == orjson.dumps(data)
    assert (projected.dropped_fields, projected.personal_fields) == (0, 0)


@pytest.mark.parametrize(
    "path",
    [
        "person",
        "verification/person",
        "verification/checks/0/person",
        "previous/person",
        "links/document_front",
        "check/person",
        "monitor/person",
    ],
)
def test_an_unknown_field_is_left_out_and_counted_once_at_any_depth(path: str) -> None:
    data = example()["data"]
    data["check"] = {"id": "chk_document0001"}
    data["monitor"] = {"id": "mon_4Tn2Xk9PqL"}
    before = orjson.dumps(data)
    *parents, name = path.split("/")
    node: Any = data
    for parent in parents:
        node = node[int(parent) if parent.isdigit() else parent]
    node[name] = {"name": "Erika", "address": ["Bonn"]}

    projected = PROJECTION.apply(data)

    assert orjson.dumps(projected.data) == before
    assert projected.dropped_fields == 1


def test_personal_data_is_always_left_out_and_counted_by_itself() -> None:
    data = example()["data"]
    before = orjson.dumps(data)
    data["personal_data"] = {"person.given_name": "Erika", "document.number": "L01X00T47"}

    projected = PROJECTION.apply(data)

    assert orjson.dumps(projected.data) == before
    assert (projected.dropped_fields, projected.personal_fields) == (0, 2)


def test_personal_data_is_left_out_where_it_does_not_belong_too() -> None:
    data = example()["data"]
    before = orjson.dumps(data)
    data["verification"]["personal_data"] = {"person.given_name": "Erika"}
    data["verification"]["checks"][0]["personal_data"] = "Erika"

    projected = PROJECTION.apply(data)

    assert orjson.dumps(projected.data) == before
    assert (projected.dropped_fields, projected.personal_fields) == (0, 2)


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("verification/client_reference", None),
        ("verification/reason_codes", []),
        ("verification/metadata", {}),
        ("previous/client_reference", None),
        ("previous/changed_fields", []),
        ("links/self", None),
    ],
)
def test_a_known_name_does_not_smuggle_an_object(path: str, kept: object) -> None:
    data = example()["data"]
    parent, name = path.split("/")
    smuggled = {"name": {"given": "Erika"}}
    data[parent][name] = [smuggled] if isinstance(kept, list) else smuggled

    projected = PROJECTION.apply(data)

    assert b"Erika" not in orjson.dumps(projected.data)
    assert projected.data[parent].get(name) == kept  # type: ignore[union-attr]
    assert projected.dropped_fields == 1


def test_metadata_passes_with_names_of_the_customers_choice() -> None:
    data = example()["data"]
    data["verification"]["metadata"] = {"order": "4711", "ä ö": ""}

    assert PROJECTION.apply(data).data == data


def test_previous_metadata_may_have_been_null() -> None:
    data = example()["data"]
    data["previous"] = {"metadata": None}

    projected = PROJECTION.apply(data)

    assert projected.data["previous"] == {"metadata": None}
    assert projected.dropped_fields == 0


def test_the_input_is_not_changed() -> None:
    data = example()["data"]
    data["device"] = {"ip": "192.0.2.1"}
    before = orjson.dumps(data)

    PROJECTION.apply(data)

    assert orjson.dumps(data) == before


@given(data=st.dictionaries(_names, _anything, max_size=6))
def test_whatever_comes_in_only_named_fields_come_out_and_twice_is_as_good_as_once(
    data: dict[str, Any],
) -> None:
    projected = PROJECTION.apply(data)
    again = PROJECTION.apply(projected.data)

    assert b'"person"' not in _without_open_maps(projected.data)
    assert b'"personal_data"' not in _without_open_maps(projected.data)
    assert again.data == projected.data
    assert (again.dropped_fields, again.personal_fields) == (0, 0)


def _without_open_maps(data: Any) -> bytes:
    for holder in ("verification", "previous"):
        if isinstance(data.get(holder), dict):
            data = {**data, holder: {**data[holder], "metadata": None}}
    return orjson.dumps(data)


@given(data=st.dictionaries(_names, _anything, max_size=6))
def test_data_matches_the_schema_of_whole_data_exactly_where_the_walk_leaves_nothing_out(data: dict[str, Any]) -> None:
    projected = PROJECTION.apply(data)

    is_whole = projected == (data, 0, 0)

    assert WHOLE.is_valid(data) is is_whole


@pytest.mark.parametrize("name", PRODUCER_TYPES)
def test_every_example_is_whole_and_no_longer_so_with_a_field_of_its_own(name: str) -> None:
    data = example(name)["data"]

    assert WHOLE.is_valid(data)
    assert not WHOLE.is_valid({**data, "verification": {**data["verification"], "person": "Erika"}})
    assert not WHOLE.is_valid({**data, "personal_data": {}})


def test_a_schema_that_allows_everything_is_refused_at_start() -> None:
    schema = {"properties": {"data": {"properties": {"verification": {"type": "object"}}}}}
    schemas = EventSchemas({EVENT_URN: schema})  # type: ignore[dict-item]

    with pytest.raises(ConfigurationError, match="/data/verification allows everything"):
        Projection(schemas)


def test_a_body_keeps_text_as_utf8_and_has_the_published_order() -> None:
    body = example()

    written = build_body(envelope(body, {"name": "José 日本 😀"}))

    assert "José 日本 😀".encode() in written
    assert list(json.loads(written)) == list(Envelope.__annotations__) == list(body)
    assert json.loads(written)["api_version"] == API_VERSION


@pytest.mark.parametrize(
    ("at", "shown"),
    [
        (dt.datetime(2026, 11, 3, 9, 24, 55, 312_999, dt.UTC), "2026-11-03T09:24:55.312Z"),
        (dt.datetime(2026, 11, 3, 9, 24, 55, 0, dt.UTC), "2026-11-03T09:24:55.000Z"),
        (
            dt.datetime(2026, 11, 3, 1, 0, tzinfo=dt.timezone(dt.timedelta(hours=2))),
            "2026-11-02T23:00:00.000Z",
        ),
        (dt.datetime(1, 1, 1, tzinfo=dt.UTC), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_timestamps_are_utc_with_milliseconds_cut(at: dt.datetime, shown: str) -> None:
    assert show_timestamp(at) == shown
