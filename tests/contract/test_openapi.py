"""The API's document: valid, whole, and the same as what the server is made of."""

import json
from typing import Any

import jsonschema_rs
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from dispatcher.api.problems import KINDS
from dispatcher.api.routes import ROUTES
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.schema_files import load_catalogue, load_publications, schema_folder
from tests.house.files import ROOT

DOCUMENT: dict[str, Any] = json.loads((ROOT / "schemas" / "openapi.json").read_text(encoding="utf-8"))
TYPES = [one.name for one in Catalogue.from_document(load_catalogue(schema_folder())).types]


def operations() -> list[dict[str, Any]]:
    return [operation for path in DOCUMENT["paths"].values() for operation in path.values()]


def test_the_document_is_valid() -> None:
    assert list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors()) == []


def test_a_fault_in_the_document_would_be_found() -> None:
    broken = json.loads(json.dumps(DOCUMENT))
    broken["paths"]["/v1/events"]["get"]["parameters"][0]["in"] = "cellar"

    assert list(OpenAPIV31SpecValidator(broken).iter_errors()) != []


def test_every_route_and_every_event_type_is_in_it() -> None:
    assert [one["operationId"] for one in operations()] == [
        route.operation_id for path in DOCUMENT["paths"] for route in ROUTES if route.path == path
    ]
    assert list(DOCUMENT["webhooks"]) == TYPES


def test_every_status_a_problem_can_have_is_told_where_it_can_come() -> None:
    told = {int(status) for one in operations() for status in one["responses"]}

    assert {kind.status.value for kind in KINDS.values()} <= told


def test_no_operation_is_without_a_word_and_a_guard() -> None:
    for one in operations():
        assert one["summary"]
        assert one["security"] in ([{"key": []}], [])
    open_to_all = [one["operationId"] for one in operations() if not one["security"]]
    assert open_to_all == ["getOpenApi", "acceptInvitation", "getSourceIps"]


@pytest.mark.parametrize("name", TYPES)
def test_the_schema_of_a_type_is_whole_in_itself(name: str) -> None:
    publications = load_publications(schema_folder())
    schema, example = json.loads(publications.schemas[name]), json.loads(publications.examples[name])

    validator = jsonschema_rs.Draft202012Validator(schema, offline=True)
    validator.validate(example)
    assert not validator.is_valid({**example, "environment": "moon"})
    assert not validator.is_valid({**example, "type": "verification.of_another"})
