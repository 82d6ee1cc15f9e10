"""The route table."""

import pytest

from dispatcher.api.call import RouteTable
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


@pytest.mark.parametrize("path", ["/v1/eventsx", "/v1/events/", "/v1/events/a/b", "v1/events", "/v1/events\n"])
def test_a_path_is_matched_whole(path: str) -> None:
    with pytest.raises(Problem) as caught:
        TABLE.find("GET", path)

    assert caught.value.status == 404
