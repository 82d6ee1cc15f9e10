"""Samples: published examples as a producer would send them, fresh and changed as asked."""

import datetime as dt
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import orjson
import pytest

from dispatcher.intake.decoding import Decoder
from dispatcher.model.event import Event, Record
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.samples import (
    SOURCE,
    SampleFrame,
    SampleRecord,
    parse_changes,
    sample_body,
    sample_record,
    variants_of,
)
from dispatcher.policy.schema_files import Json, load_catalogue, load_event_schemas, load_example, schema_folder

NOW = dt.datetime(2027, 2, 3, 4, 5, 6, 789_000, dt.timezone(dt.timedelta(hours=2)))
CATALOGUE = Catalogue.from_document(load_catalogue(schema_folder()))
DECODER = Decoder(load_event_schemas(schema_folder()), CATALOGUE)
NAMES = [one.name for one in CATALOGUE.types]
EXAMPLE = load_example(schema_folder(), "verification.completed")


def a_sample(
    changes: dict[str, Json] | None = None, *, example: bytes = EXAMPLE, token: str = "t123456789"
) -> SampleRecord:
    return sample_record(example, account="acct_5hQ2vN8rTb", environment="test", token=token, now=NOW, changes=changes)


def times_of(verification: dict[str, Any]) -> Iterator[tuple[str, dt.datetime]]:
    for name, value in verification.items():
        if name.endswith("_at") and isinstance(value, str):
            yield name, dt.datetime.fromisoformat(value)


def test_a_sample_is_a_record_in_binary_mode_with_everything_that_routes_it() -> None:
    sample = a_sample()

    assert dict(sample.headers) == {
        "ce_specversion": b"1.0",
        "ce_id": b"t123456789",
        "ce_source": SOURCE.encode(),
        "ce_type": b"verification.completed",
        "ce_time": b"2027-02-03T02:05:06.789Z",
        "ce_subject": b"ver_t123456789",
        "ce_accountid": b"acct_5hQ2vN8rTb",
        "ce_environment": b"test",
        "content-type": b"application/json",
    }
    assert sample.key == b"ver_t123456789"
    data = orjson.loads(sample.value)
    assert data["verification"]["id"] == "ver_t123456789"
    assert data["links"]["self"].endswith("/ver_t123456789")


def test_its_times_keep_their_distances_and_end_now() -> None:
    before = orjson.loads(EXAMPLE)
    after = orjson.loads(a_sample().value)
    moved_by = NOW - dt.datetime.fromisoformat(before["timestamp"])
    was = dict(times_of(before["data"]["verification"]))

    assert was
    assert dict(times_of(after["verification"])) == {name: moment + moved_by for name, moment in was.items()}


def test_two_samples_share_no_id() -> None:
    one, two = a_sample(token="a" * 10), a_sample(token="b" * 10)

    assert dict(one.headers)["ce_id"] != dict(two.headers)["ce_id"]
    assert one.key != two.key


def test_changes_reach_the_data_by_their_path() -> None:
    sample = a_sample({"verification.outcome": "declined", "verification.risk.score": 7, "note": None})

    data = orjson.loads(sample.value)
    assert data["verification"]["outcome"] == "declined"
    assert data["verification"]["risk"]["score"] == 7
    assert data["note"] is None


@pytest.mark.parametrize(
    "text",
    [
        "data.note=" + "[" * 300 + "]" * 300,
        "data.note=" + '{"a":' * 1_000 + "1" + "}" * 1_000,
        "data" + ".a" * 2_000 + "=1",
        "data.note=\udcff",
    ],
    ids=["list", "object", "path", "no text"],
)
def test_what_cannot_be_written_as_json_is_a_fault_of_who_set_it(text: str) -> None:
    with pytest.raises(ValueError, match="cannot be written"):
        a_sample(parse_changes([text], None))


def test_what_is_nested_too_deeply_to_be_read_is_a_text_like_any_other() -> None:
    deep = "[" * 2_000 + "]" * 2_000

    record = a_sample(parse_changes([f"data.note={deep}"], None))

    assert orjson.loads(record.value)["note"] == deep


def test_a_changed_id_is_the_key_and_the_subject() -> None:
    sample = a_sample({"verification.id": "ver_mine"})

    assert (sample.key, dict(sample.headers)["ce_subject"]) == (b"ver_mine", b"ver_mine")


def test_a_path_through_a_text_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outcome in verification\.outcome\.x is not an object"):
        a_sample({"verification.outcome.x": 1})


def test_changes_are_json_where_they_can_be_and_else_text() -> None:
    changes = parse_changes(["data.verification.revision=8", "a.b=x=y", "c=true", "d=", 'e={"f":[1]}', "g=null"], None)

    assert changes == {
        "verification.revision": 8,
        "a.b": "x=y",
        "c": True,
        "d": "",
        "e": {"f": [1]},
        "g": None,
    }


def test_an_outcome_is_one_that_exists_and_yields_to_a_change() -> None:
    assert parse_changes([], "declined") == {"verification.outcome": "declined"}
    assert parse_changes(["data.verification.outcome=approved"], "declined") == {"verification.outcome": "approved"}
    with pytest.raises(ValueError, match="approved, declined, inconclusive"):
        parse_changes([], "perhaps")
    with pytest.raises(ValueError, match="does not look like"):
        parse_changes(["nothing"], None)


@pytest.mark.parametrize("name", [one for one in NAMES if one.startswith(("verification.", "check.", "monitoring."))])
def test_every_sample_of_a_producers_type_becomes_an_event_of_that_type(name: str) -> None:
    sample = a_sample(example=load_example(schema_folder(), name))
    record = Record("t", 0, 0, 1_793_697_900_000, sample.key, sample.value, sample.headers)

    event = DECODER.decode(record)

    assert isinstance(event, Event), event
    assert (event.type, event.dropped_fields, event.subject) == (name, 0, "ver_t123456789")


FRAME = SampleFrame("acct_5hQ2vN8rTb", "live", "evt_test_" + "a" * 26, "we_3JqPz7LmA0")
REGISTRY = jsonschema_rs.Registry(list(load_event_schemas(schema_folder()).documents.items()))


def each_variant() -> Iterator[tuple[str, str | None]]:
    for name in NAMES:
        yield from ((name, variant) for variant in (None, *variants_of(load_example(schema_folder(), name))))


@pytest.mark.parametrize(("name", "variant"), list(each_variant()))
def test_every_variant_of_every_type_fulfils_the_published_schema(name: str, variant: str | None) -> None:
    example = load_example(schema_folder(), name)

    body = orjson.loads(sample_body(example, FRAME, token="t123456789", now=NOW, variant=variant))

    schema = {"$ref": f"urn:webhooks:event:2026-11-01:{name}"}
    jsonschema_rs.Draft202012Validator(schema, validate_formats=True, registry=REGISTRY, offline=True).validate(body)
    assert (body["id"], body["test"], body["environment"]) == (FRAME.event_id, True, "live")
    assert body["type"] == name
    assert body["timestamp"] == "2027-02-03T02:05:06.789Z"


def test_a_decision_comes_in_every_outcome_and_others_in_none() -> None:
    outcomes = {
        variant: orjson.loads(sample_body(EXAMPLE, FRAME, token="t123456789", now=NOW, variant=variant))["data"][
            "verification"
        ]["outcome"]
        for variant in ("approved", "declined", "inconclusive")
    }

    assert outcomes == {name: name for name in outcomes}
    assert "declined" not in variants_of(load_example(schema_folder(), "verification.created"))
    assert variants_of(load_example(schema_folder(), "webhook.ping")) == ()
    with pytest.raises(ValueError, match="no such variant"):
        sample_body(
            load_example(schema_folder(), "webhook.ping"), FRAME, token="t123456789", now=NOW, variant="largest"
        )
