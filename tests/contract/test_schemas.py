"""Holds the published schemas, examples and the Kafka contract together."""

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import yaml

from dispatcher.model.ids import event_id_of, show_event_id
from dispatcher.policy.catalogue import Catalogue, Origin
from dispatcher.policy.schema_files import (
    API_VERSION,
    EVENT_URN,
    RECORD_DATA_URN,
    load_catalogue,
    load_event_schemas,
    load_example,
    schema_folder,
)
from tests.support.record_files import SCHEMAS, RecordFile, read_record_files

EVENT_SCHEMAS = load_event_schemas(schema_folder())
REGISTRY = jsonschema_rs.Registry(list(EVENT_SCHEMAS.documents.items()))
CATALOGUE = Catalogue.from_document(load_catalogue(schema_folder()))
TYPES = [kind.name for kind in CATALOGUE.types]
BAD = sorted((SCHEMAS / "examples" / "bad").glob("*.json"))
ASYNCAPI = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text())
GOOD_RECORDS = read_record_files("good")
BINARY = [file for file in GOOD_RECORDS if file.name.startswith("binary.")]


def validator(urn: str) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator({"$ref": urn}, validate_formats=True, registry=REGISTRY, offline=True)


@pytest.mark.parametrize("urn", sorted(EVENT_SCHEMAS.documents))
def test_a_schema_is_one_of_draft_2020_12_and_names_its_version(urn: str) -> None:
    document = EVENT_SCHEMAS.documents[urn]

    assert document["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert urn.startswith(EVENT_URN) or urn == RECORD_DATA_URN
    jsonschema_rs.meta.validate(document)
    validator(urn)


def test_every_type_has_a_schema_an_example_and_a_place_in_the_catalogue() -> None:
    schemas = {urn.removeprefix(f"{EVENT_URN}:") for urn in EVENT_SCHEMAS.documents}
    examples = {path.stem for path in (SCHEMAS / "examples" / "good").iterdir()}

    assert schemas - {EVENT_URN, RECORD_DATA_URN} == examples == set(TYPES)
    assert len(TYPES) == len(set(TYPES)) == 17


def test_type_names_follow_the_naming_rule() -> None:
    rule = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*){1,3}")

    assert all(rule.fullmatch(name) and len(name) <= 128 for name in TYPES)


@pytest.mark.parametrize("name", TYPES)
def test_a_good_example_is_valid_and_compact(name: str) -> None:
    raw = load_example(schema_folder(), name)
    body = orjson.loads(raw)

    validator(f"{EVENT_URN}:{name}").validate(body)
    assert body["api_version"] == API_VERSION
    assert orjson.dumps(body) == raw
    assert len(raw) <= 806


@pytest.mark.parametrize("name", TYPES)
def test_an_example_shows_the_status_that_the_catalogue_tells(name: str) -> None:
    kind = CATALOGUE.find(name)
    verification = orjson.loads(load_example(schema_folder(), name))["data"].get("verification")

    assert kind is not None
    if kind.status is not None:
        assert (verification["status"], verification["final"]) == (kind.status, kind.final)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_bad_example_fails_where_it_says_and_nowhere_else(path: Path) -> None:
    document = json.loads(path.read_text())

    errors = list(validator(f"{EVENT_URN}:{document['type']}").iter_errors(document["body"]))

    pointers = {"".join(f"/{name}" for name in error.instance_path) for error in errors}
    assert pointers == {document["pointer"]}
    assert document["keyword"] in {error.kind.name for error in errors}
    assert document["reason"]


@pytest.mark.parametrize("name", [kind.name for kind in CATALOGUE.types if kind.origin is Origin.PRODUCER])
def test_the_data_of_a_producers_example_is_a_valid_record_value(name: str) -> None:
    body = orjson.loads(load_example(schema_folder(), name))

    validator(RECORD_DATA_URN).validate(body["data"])


def test_receivers_may_meet_fields_they_do_not_know() -> None:
    body = orjson.loads(load_example(schema_folder(), "verification.completed"))
    body["new"] = body["data"]["new"] = body["data"]["verification"]["new"] = {"a": 1}
    body["data"]["links"]["report"] = "https://api.example.com/v1/reports/1"

    validator(f"{EVENT_URN}:verification.completed").validate(body)


def test_only_known_names_are_asked_of_old_values() -> None:
    parts = EVENT_SCHEMAS.envelope["$defs"]
    assert isinstance(parts, dict)
    known = set(parts["verification"]["properties"])  # type: ignore[call-overload,index,arg-type]
    previous = set(parts["previous"]["properties"])  # type: ignore[call-overload,index,arg-type]

    assert previous - known == {"changed_fields"}
    assert known - previous == {"id", "checks"}


@pytest.mark.parametrize(
    ("source", "producer_id", "event_id"),
    [
        ("/verification-core", "7c1d-0006", "evt_um5ftg6iliy2zijxfx6es3pxihofvoh5"),
        ("/verification-core/eu", "A234-1234-1234", "evt_zgevy4z4ayrryq4ge23p326biaf4v7w2"),
    ],
)
def test_event_ids_are_the_published_ones(source: str, producer_id: str, event_id: str) -> None:
    assert show_event_id(event_id_of(source, producer_id)) == event_id


def resolve(reference: str, document: Any) -> Any:
    """Follow a reference as an AsyncAPI tool does: by file below schemas/, not by `$id`."""
    file, _, pointer = reference.partition("#")
    node = json.loads((SCHEMAS / file).read_text()) if file else document
    for name in pointer.split("/")[1:]:
        node = node[name]
    return node


def references(node: Any) -> list[str]:
    if isinstance(node, dict):
        own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
        return own + [reference for child in node.values() for reference in references(child)]
    if isinstance(node, list):
        return [reference for child in node for reference in references(child)]
    return []


def inline(node: Any, document: Any) -> Any:
    """Return a node with every reference replaced by what it leads to."""
    if isinstance(node, dict):
        if "$ref" in node:
            file = node["$ref"].partition("#")[0]
            home = json.loads((SCHEMAS / file).read_text()) if file else document
            return inline(resolve(node["$ref"], document), home)
        return {name: inline(child, document) for name, child in node.items()}
    if isinstance(node, list):
        return [inline(child, document) for child in node]
    return node


def test_every_reference_of_the_kafka_contract_leads_somewhere() -> None:
    found = references(ASYNCAPI)

    assert len(found) == 4
    assert all(resolve(reference, ASYNCAPI) for reference in found)
    assert ASYNCAPI["asyncapi"] == "3.0.0"


def test_references_inside_the_envelope_work_by_file_too() -> None:
    payload = inline(message()["payload"], ASYNCAPI)

    assert references(payload) == []
    assert "revision" in payload["allOf"][0]["properties"]["verification"]["properties"]


def message() -> dict[str, Any]:
    found: dict[str, Any] = ASYNCAPI["components"]["messages"]["verificationEvent"]
    return found


def test_there_is_a_good_record_of_every_producers_type() -> None:
    names = {file.name.removeprefix("binary.") for file in BINARY}

    assert names == {kind.name for kind in CATALOGUE.types if kind.origin is Origin.PRODUCER}


@pytest.mark.parametrize("file", BINARY, ids=lambda file: file.name)
def test_a_good_record_keeps_the_kafka_contract(file: RecordFile) -> None:
    headers = {name: (value or b"").decode() for name, value in file.record.headers}
    schema = inline(message()["headers"], ASYNCAPI)
    payload = inline(message()["payload"], ASYNCAPI)
    key = message()["bindings"]["kafka"]["key"]

    jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(headers)
    jsonschema_rs.Draft202012Validator(payload, validate_formats=True).validate(orjson.loads(file.record.value or b""))
    jsonschema_rs.Draft202012Validator(key).validate((file.record.key or b"").decode())


def test_the_contracts_payload_is_the_schema_of_a_records_value() -> None:
    document = EVENT_SCHEMAS.documents[RECORD_DATA_URN]
    by_file = message()["payload"]

    assert by_file["required"] == document["required"]
    assert by_file["allOf"] == [{"$ref": f"events/{API_VERSION}/envelope.schema.json#/$defs/data"}]
    assert document["$ref"] == f"{EVENT_URN}#/$defs/data"


def test_every_schema_file_is_named_in_the_readme() -> None:
    readme = (SCHEMAS / "README.md").read_text()

    for part in (
        "catalogue.json",
        "envelope.schema.json",
        "asyncapi.yaml",
        "kafka/data.schema.json",
    ):
        assert part in readme
    assert "vectors/signatures.json" in readme
