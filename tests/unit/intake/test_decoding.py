import copy
import datetime as dt
import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import orjson
import pytest
from cloudevents.core.bindings.kafka import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.intake.decoding import UNKNOWN_TYPE, Decoder, DecodingLimits, PlainMapping
from dispatcher.model.event import DeadEvent, DeadReason, Event, Record, Skipped
from dispatcher.model.ids import parse_event_id
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.schema_files import (
    EVENT_URN,
    load_catalogue,
    load_event_schemas,
    load_example,
    schema_folder,
)
from tests.support.record_files import RecordFile, read_record_files

FOLDER = schema_folder()
SCHEMAS = load_event_schemas(FOLDER)
CATALOGUE = Catalogue.from_document(load_catalogue(FOLDER))
DECODER = Decoder(SCHEMAS, CATALOGUE)
REGISTRY = jsonschema_rs.Registry(list(SCHEMAS.documents.items()))
EXAMPLE = load_example(FOLDER, "verification.completed")
DATA: dict[str, Any] = orjson.loads(EXAMPLE)["data"]
HEADERS = {
    "ce_specversion": b"1.0",
    "ce_id": b"7c1d-0006",
    "ce_source": b"/verification-core",
    "ce_type": b"verification.completed",
    "ce_time": b"2026-11-03T09:24:55.312Z",
    "ce_subject": b"ver_8Zk3QmT1xW5n",
    "ce_accountid": b"acct_5hQ2vN8rTb",
    "ce_environment": b"live",
    "content-type": b"application/json",
}
STRUCTURED = (("content-type", b"application/cloudevents+json"),)


def a_record(value: bytes | None, headers: Any = None) -> Record:
    chosen = HEADERS if headers is None else headers
    pairs = tuple(chosen.items()) if isinstance(chosen, dict) else tuple(chosen)
    return Record("verification.events.v1", 0, 0, 0, b"key", value, pairs)


def decode(value: bytes | None, headers: Any = None, decoder: Decoder = DECODER) -> Any:
    answer = decoder.decode(a_record(value, headers))
    assert not (isinstance(answer, DeadEvent) and answer.detail.startswith("decoder fault")), answer
    return answer


def without(name: str) -> dict[str, bytes]:
    return {key: value for key, value in HEADERS.items() if key != name}


def structured(**changes: Any) -> dict[str, Any]:
    plain = {name.removeprefix("ce_"): value.decode() for name, value in HEADERS.items()}
    del plain["content-type"]
    return {**plain, "data": DATA, **changes}


@pytest.mark.parametrize("file", read_record_files("good"), ids=lambda file: file.name)
def test_a_good_record_becomes_the_published_body(file: RecordFile) -> None:
    event = DECODER.decode(file.record)

    assert isinstance(event, Event), event
    assert event.body == load_example(FOLDER, str(file.expect["example"]))
    assert event.dropped_fields == file.expect["dropped_fields"]


@pytest.mark.parametrize("file", read_record_files("bad"), ids=lambda file: file.name)
def test_a_bad_record_is_dead_for_the_published_reason(file: RecordFile) -> None:
    dead = DECODER.decode(file.record)

    assert isinstance(dead, DeadEvent), dead
    assert dead.reason == file.expect["dead"]
    assert dead.detail
    assert "decoder fault" not in dead.detail


@pytest.mark.parametrize("file", read_record_files("skipped"), ids=lambda file: file.name)
def test_a_record_that_is_not_for_us_is_skipped(file: RecordFile) -> None:
    assert DECODER.decode(file.record) == Skipped(str(file.expect["skipped"]))


def test_every_reason_that_a_record_itself_can_give_has_a_bad_record() -> None:
    published = {file.expect["dead"] for file in read_record_files("bad")}

    # The other two are told by the directory of accounts and by the database.
    assert published == set(DeadReason) - {
        DeadReason.UNKNOWN_ACCOUNT,
        DeadReason.REFUSED_BY_DATABASE,
    }


def test_an_event_carries_what_the_ledger_stores() -> None:
    event = decode(orjson.dumps(DATA))

    assert event.public_id == "evt_um5ftg6iliy2zijxfx6es3pxihofvoh5"
    assert event.event_id == parse_event_id(event.public_id)
    assert event[2:9] == (
        "acct_5hQ2vN8rTb",
        "live",
        "verification.completed",
        "ver_8Zk3QmT1xW5n",
        "user-4711",
        "approved",
        "wf_kyc_basic",
    )
    assert event.occurred_at == dt.datetime(2026, 11, 3, 9, 24, 55, 312_000, dt.UTC)


def test_a_redelivered_record_decodes_to_an_equal_event() -> None:
    value = json.dumps(DATA).encode()

    assert decode(value) == decode(value)


def cloud_event() -> CloudEvent:
    return CloudEvent(
        attributes={
            "id": "7c1d-0006",
            "source": "/verification-core",
            "type": "verification.completed",
            "subject": "ver_8Zk3QmT1xW5n",
            "time": dt.datetime(2026, 11, 3, 9, 24, 55, 312_345, dt.UTC),
            "datacontenttype": "application/json",
            "accountid": "acct_5hQ2vN8rTb",
            "environment": "live",
            "partitionkey": "ver_8Zk3QmT1xW5n",
        },
        data=DATA,
    )


def test_what_an_independent_producer_writes_in_binary_mode_is_read() -> None:
    message = to_binary(cloud_event(), JSONFormat())

    event = decode(message.value, message.headers)

    assert event.body == EXAMPLE
    assert event.occurred_at.microsecond == 312_345


def test_what_an_independent_producer_writes_in_structured_mode_is_read() -> None:
    message = to_structured(cloud_event(), JSONFormat())

    assert decode(message.value, message.headers).body == EXAMPLE


def test_a_producers_own_type_name_is_mapped() -> None:
    theirs = "com.example.idv.session.decided.v2"
    catalogue = Catalogue.from_document(load_catalogue(FOLDER), {theirs: "verification.completed"})
    decoder = Decoder(SCHEMAS, catalogue)

    event = decode(orjson.dumps(DATA), HEADERS | {"ce_type": theirs.encode()}, decoder)

    assert event.body == EXAMPLE
    assert event.type == "verification.completed"


def test_a_type_that_is_not_for_us_is_skipped_without_reading_its_value() -> None:
    headers = HEADERS | {"ce_type": b"billing.invoice.paid"}

    assert decode(b"\xff not ours", headers) == Skipped(UNKNOWN_TYPE)


PLAIN = PlainMapping("/legacy", "meta.id", "meta.kind", "meta.at", "tenant", "world", "body")


def plain(**changes: Any) -> bytes:
    meta = {
        "id": "1",
        "kind": "verification.completed",
        "at": "2026-11-03T09:24:55.312Z",
    }
    document = {"meta": meta, "tenant": "acct_5hQ2vN8rTb", "world": "live", "body": DATA}
    return orjson.dumps({**document, **changes})


def test_plain_json_is_read_by_its_mapping() -> None:
    decoder = Decoder(SCHEMAS, CATALOGUE, plain=PLAIN)

    event = decode(plain(), {"content-type": b"application/json"}, decoder)

    assert (event.account, event.environment) == ("acct_5hQ2vN8rTb", "live")
    assert json.loads(event.body)["data"] == DATA


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"meta": None}, DeadReason.BAD_HEADERS),
        ({"tenant": None}, DeadReason.MISSING_ACCOUNT),
        ({"tenant": ["acct_5hQ2vN8rTb"]}, DeadReason.BAD_ACCOUNT),
        ({"world": ""}, DeadReason.MISSING_ENVIRONMENT),
        ({"body": "x"}, DeadReason.BAD_HEADERS),
    ],
)
def test_plain_json_without_what_the_mapping_names_is_dead(changes: dict[str, Any], reason: DeadReason) -> None:
    decoder = Decoder(SCHEMAS, CATALOGUE, plain=PLAIN)

    assert decode(plain(**changes), [], decoder).reason is reason


def test_a_record_with_any_attribute_is_never_taken_for_plain_json() -> None:
    decoder = Decoder(SCHEMAS, CATALOGUE, plain=PLAIN)

    dead = decode(plain(), {"ce_accountid": b"acct_0000000000"}, decoder)

    assert dead == DeadEvent(DeadReason.BAD_HEADERS, "specversion is missing: not a CloudEvent")


def test_limits_are_inclusive() -> None:
    value = orjson.dumps(DATA)
    names = sum(len(name) + len(content) for name, content in HEADERS.items())
    full = [*HEADERS.items(), ("x", b"x" * (16_384 - names - 1))]
    many = [*HEADERS.items(), *((f"x{n}", b"") for n in range(128 - len(HEADERS)))]
    nested = value[:-1] + b',"device":' + b"[" * 31 + b"]" * 31 + b"}"

    assert isinstance(decode(value + b" " * (262_144 - len(value))), Event)
    assert isinstance(decode(value, full), Event)
    assert isinstance(decode(value, many), Event)
    assert isinstance(decode(nested), Event)
    assert decode(value + b" " * (262_145 - len(value))).reason is DeadReason.TOO_LARGE
    assert decode(value, [*full, ("y", b"")]).reason is DeadReason.BAD_HEADERS
    assert decode(value, [*many, ("y", b"")]).reason is DeadReason.BAD_HEADERS


def test_many_brackets_that_do_not_nest_are_no_depth() -> None:
    data = {**DATA, "device": [[] for _ in range(1_000)], "text": "[" * 100 + "{" * 100}

    assert decode(orjson.dumps(data)).dropped_fields == 2


@pytest.mark.parametrize("name", DATA["verification"])
@pytest.mark.parametrize("levels", [b"[" * 1_000 + b"]" * 1_000, b'{"a":' * 1_000 + b"1" + b"}" * 1_000])
def test_depth_is_told_below_any_field_that_is_known(name: str, levels: bytes) -> None:
    value = orjson.dumps({"verification": {**DATA["verification"], name: "HERE"}}).replace(b'"HERE"', levels)

    assert decode(value) == DeadEvent(DeadReason.SCHEMA_INVALID, "more than 32 levels")


def test_an_operator_may_set_other_limits() -> None:
    decoder = Decoder(SCHEMAS, CATALOGUE, limits=DecodingLimits(value_bytes=100))

    assert decode(orjson.dumps(DATA), None, decoder).reason is DeadReason.TOO_LARGE


@pytest.mark.parametrize("name", HEADERS)
def test_an_attribute_written_twice_is_dead_even_when_both_agree(name: str) -> None:
    headers = [*HEADERS.items(), (name.upper(), HEADERS[name])]

    dead = decode(orjson.dumps(DATA), headers)

    assert dead.reason is DeadReason.BAD_HEADERS
    assert dead.detail.endswith("is there twice")


@pytest.mark.parametrize("name", ["id", "source", "type", "subject", "accountid", "environment"])
def test_a_structured_event_and_its_headers_must_tell_one_story(name: str) -> None:
    value = orjson.dumps(structured())
    agreeing = HEADERS[f"ce_{name}"]

    assert isinstance(decode(value, [*STRUCTURED, (f"ce_{name}", agreeing)]), Event)
    dead = decode(value, [*STRUCTURED, (f"ce_{name}", b"other")])
    assert dead == DeadEvent(DeadReason.BAD_HEADERS, f"{name} differs in headers and value")


def test_headers_never_fill_what_a_structured_event_leaves_out() -> None:
    event = structured()
    del event["accountid"]

    dead = decode(orjson.dumps(event), [*STRUCTURED, ("ce_accountid", b"acct_5hQ2vN8rTb")])

    assert dead.reason is DeadReason.MISSING_ACCOUNT


def test_an_extension_of_others_may_differ_between_headers_and_value() -> None:
    value = orjson.dumps(structured(revision=7, time="2026-11-03T09:24:55.312000Z"))
    headers = [*STRUCTURED, ("ce_revision", b"7"), ("ce_time", HEADERS["ce_time"])]

    assert isinstance(decode(value, headers), Event)


def test_the_content_type_may_be_left_out() -> None:
    assert decode(orjson.dumps(DATA), without("content-type")).body == EXAMPLE


@pytest.mark.parametrize(
    ("text", "iso"),
    [
        ("2026-11-03T09:24:55Z", "2026-11-03T09:24:55+00:00"),
        ("2026-11-03t09:24:55.1z", "2026-11-03T09:24:55.100000+00:00"),
        ("2026-11-03 09:24:55.123456789+00:00", "2026-11-03T09:24:55.123456+00:00"),
        ("2026-11-03T09:24:55-00:00", "2026-11-03T09:24:55+00:00"),
        ("2026-12-31T23:30:00-01:00", "2027-01-01T00:30:00+00:00"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999+00:00"),
    ],
)
def test_any_instant_of_rfc_3339_is_read(text: str, iso: str) -> None:
    event = decode(orjson.dumps(DATA), HEADERS | {"ce_time": text.encode()})

    assert event.occurred_at.isoformat() == iso
    assert event.occurred_at.tzinfo is dt.UTC


@pytest.mark.parametrize(
    "text",
    [
        "yesterday",
        "2026-11-03",
        "20261103T092455Z",
        "2026-W45-2T09:24:55Z",
        "1793697895",
        "2026-11-03T09:24:55,3Z",
        "2026-11-03T24:00:00Z",
        "2026-11-03T09:24:55+24:00",
        "9999-12-31T23:59:59-01:00",
        "2026-11-03T09:24:55Z\n",
        "٢٠٢٦-11-03T09:24:55Z",
    ],
)
def test_any_other_time_is_dead(text: str) -> None:
    dead = decode(orjson.dumps(DATA), HEADERS | {"ce_time": text.encode()})

    assert dead.reason is DeadReason.BAD_TIMESTAMP


def test_a_detail_names_the_place_and_never_the_value() -> None:
    data = copy.deepcopy(DATA)
    data["verification"]["checks"][1]["type"] = "Erika Mustermann"

    dead = decode(orjson.dumps(data))

    assert dead == DeadEvent(DeadReason.SCHEMA_INVALID, "/verification/checks/1/type: enum")


def test_a_detail_hides_names_that_could_be_values() -> None:
    data = copy.deepcopy(DATA)
    data["verification"]["metadata"] = {"Erika Mustermann, Heidestr. 17": 1}

    assert decode(orjson.dumps(data)).detail == "/verification/metadata/*: type"


def test_personal_data_reaches_no_field_of_the_event() -> None:
    data = {**DATA, "personal_data": {"person.given_name": "Erika"}, "person": "Erika"}

    event = decode(orjson.dumps(data))

    assert "Erika" not in repr(event)
    assert event.dropped_fields == 1


def test_text_that_only_looks_like_an_escaped_nul_is_fine() -> None:
    data = copy.deepcopy(DATA)
    data["verification"]["client_reference"] = "\\u0000"

    assert json.loads(decode(orjson.dumps(data)).body)["data"] == data


@pytest.mark.parametrize("place", ["name", "value", "reason", "reference"])
def test_a_nul_anywhere_in_the_body_is_dead(place: str) -> None:
    data = copy.deepcopy(DATA)
    verification = data["verification"]
    if place == "reference":
        verification["client_reference"] = "user\x00"
    elif place == "reason":
        verification["checks"][0]["reason_codes"] = ["a\x00"]
    else:
        verification["metadata"] = {"a\x00": "b"} if place == "name" else {"a": "b\x00"}

    assert decode(orjson.dumps(data)) == DeadEvent(DeadReason.SCHEMA_INVALID, "a text holds U+0000")


def test_half_a_surrogate_pair_in_a_reference_is_dead() -> None:
    value = orjson.dumps(DATA).replace(b'"user-4711"', b'"user-\\ud83d"')

    assert decode(value).reason is DeadReason.SCHEMA_INVALID


@pytest.mark.parametrize("reference", [None, "r" * 255, "Zoë 東京 🙂"])
def test_the_customers_reference_is_taken_from_the_body_that_is_sent(reference: str | None) -> None:
    verification = {**DATA["verification"], "client_reference": reference}
    data = {**DATA, "verification": verification, "personal_data": {"client_reference": "Erika"}}

    event = decode(orjson.dumps(data))

    assert event.client_reference == reference == orjson.loads(event.body)["data"]["verification"]["client_reference"]


def test_a_nul_in_what_is_left_out_does_no_harm() -> None:
    assert decode(orjson.dumps({**DATA, "device": "\x00"})).dropped_fields == 1


def test_a_fault_of_ours_kills_one_record_and_not_the_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = Decoder(SCHEMAS, CATALOGUE)
    monkeypatch.setattr(decoder, "_whole", None)

    answer = decoder.decode(a_record(orjson.dumps(DATA)))

    assert answer == DeadEvent(DeadReason.SCHEMA_INVALID, "decoder fault: TypeError")


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(node, dict | list):
        for name, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from places(child, (*path, name))


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    node = changed
    for name in path[:-1]:
        node = node[name]
    node[path[-1]] = value
    return changed


HOSTILE: list[Any] = [
    None,
    True,
    -1,
    0,
    7.5,
    2**63,
    2**64 - 1,
    1.5e308,
    "",
    "\x00",
    "\ufffe\u202e",
    "x" * 300,
    "2026-02-30T00:00:00Z",
    "https://user:pass@example.com/",
    [],
    [[[]]],
    {},
    {"": {"\x00": [None]}},
    [{"a": "b"}] * 3,
]


def test_whatever_stands_in_the_value_the_body_keeps_the_published_schema() -> None:
    schema = {"$ref": f"{EVENT_URN}:verification.completed"}
    published = jsonschema_rs.Draft202012Validator(schema, registry=REGISTRY, validate_formats=True)
    n_dead = 0
    for path in places(DATA):
        for hostile in HOSTILE:
            answer = decode(orjson.dumps(put(DATA, path, hostile)))
            if isinstance(answer, Event):
                published.validate(orjson.loads(answer.body))
                assert b"\\u0000" not in answer.body
            else:
                assert answer.reason in {DeadReason.SCHEMA_INVALID, DeadReason.BAD_HEADERS}
                n_dead += 1

    assert n_dead > 400


def test_whatever_stands_in_a_header_no_event_has_another_tenant() -> None:
    value = orjson.dumps(DATA)
    hostile = [None, b"", b" ", b"\x00", b"\xff\xfe", b"x" * 20_000, b"live\n", b"acct_0' OR 1=1"]
    for name in HEADERS:
        for content in hostile:
            answer = decode(value, HEADERS | {name: content})
            if isinstance(answer, Event):
                assert (answer.account, answer.environment) == ("acct_5hQ2vN8rTb", "live")
                assert name in {"ce_id", "ce_source"}


def test_a_value_cut_anywhere_is_dead() -> None:
    value = orjson.dumps(DATA)

    reasons = {decode(value[:length]).reason for length in range(len(value))}

    assert reasons == {DeadReason.NOT_JSON}


_header_names = st.sampled_from([*HEADERS, "__value_schema_id", "CE_ID", "ce_", "x", ""])
_header_values = st.none() | st.binary(max_size=40) | st.sampled_from(list(HEADERS.values()))
_values = (
    st.none()
    | st.binary(max_size=200)
    | st.binary(max_size=40).map(lambda raw: b"\x00\x00\x00\x00\x01" + raw)
    | st.sampled_from([orjson.dumps(DATA), orjson.dumps(structured())])
)


@given(value=_values, headers=st.lists(st.tuples(_header_names, _header_values), max_size=12))
def test_no_record_makes_decoding_fail(value: bytes | None, headers: list[tuple[str, bytes | None]]) -> None:
    assert isinstance(decode(value, headers), Event | DeadEvent | Skipped)


@given(position=st.integers(0, 10_000), byte=st.integers(0, 255), framed=st.booleans())
def test_no_flipped_byte_makes_decoding_fail(position: int, byte: int, *, framed: bool) -> None:
    value = bytearray(orjson.dumps(structured() if framed else DATA))
    value[position % len(value)] = byte

    answer = decode(bytes(value), STRUCTURED if framed else None)

    assert isinstance(answer, Event | DeadEvent | Skipped)
