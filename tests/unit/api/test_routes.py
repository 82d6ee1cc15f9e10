"""The route table."""

import pytest

from dispatcher.api.call import RouteTable, plain_path
from dispatcher.api.problems import Problem
from dispatcher.api.routes import ROUTES

TABLE = RouteTable(ROUTES)


def test_operations_and_places_are_unique() -> None:
    assert len({route.operation_id for route in ROUTES}) == len(ROUTES)
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_every_route_is_found_with_its_placeholders() -> None:
    for expected in ROUTES:
        filled = expected.path.format_map(dict.fromkeys(expected.placeholders, "x1"))
        found, path = TABLE.find(expected.method, filled)

        assert found is expected
        assert path == dict.fromkeys(expected.placeholders, "x1")


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("/v1/webhook%5Fendpoints/we%5f1", "/v1/webhook_endpoints/we_1"),
        ("/v1/deliveries/d/attempts/%31", "/v1/deliveries/d/attempts/1"),
        ("/v1/a%7E%2D%2e", "/v1/a~-."),
        ("/v1/hosts/https%3A%2F%2fa%3a443", "/v1/hosts/https%3A%2F%2fa%3a443"),
        ("/v1/%255F%25", "/v1/%255F%25"),
        ("/v1/%C3%A9%00%20", "/v1/%C3%A9%00%20"),
        ("/v1/%", "/v1/%"),
        ("/v1/%5/%zz", "/v1/%5/%zz"),
    ],
)
def test_what_needs_no_encoding_is_decoded_once_and_nothing_else(raw: str, plain: str) -> None:
    assert plain_path(raw) == plain


@pytest.mark.parametrize("path", ["/v1/eventsx", "/v1/events/", "/v1/events/a/b", "v1/events", "/v1/events\n"])
def test_a_path_is_matched_whole(path: str) -> None:
    with pytest.raises(Problem) as caught:
        TABLE.find("GET", path)

    assert caught.value.status == 404
