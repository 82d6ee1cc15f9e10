"""Problem documents."""

import pytest

from dispatcher.api.problems import KINDS, MOST_FAULTS, Fault, Problem, ProblemCode, pointer, refused


def test_every_code_has_a_status_and_a_title() -> None:
    assert set(KINDS) == set(ProblemCode)


@pytest.mark.parametrize("code", [code for code, kind in KINDS.items() if kind.status == 503])
def test_every_503_says_when_to_come_again(code: ProblemCode) -> None:
    assert Problem(code).headers == {"Retry-After": "1"}
    assert Problem(code, headers={"Retry-After": "9", "X": "y"}).headers == {"Retry-After": "9", "X": "y"}


def test_a_refusal_that_time_does_not_mend_says_nothing_of_time() -> None:
    assert Problem(ProblemCode.NOT_FOUND).headers == {}


def test_pointers_escape_what_would_be_read_as_a_step() -> None:
    assert pointer(["a/b", "c~d", 0]) == "/a~1b/c~0d/0"
    assert pointer([]) == ""


def test_faults_of_one_code_give_the_problem_that_code() -> None:
    one = refused([Fault("/url", "url_not_https", "no"), Fault("/url", "url_not_https", "no")])
    two = refused([Fault("/url", "url_not_https", "no"), Fault("/events", "no_events", "none")])

    assert [one.code, two.code] == ["url_not_https", "validation_failed"]
    assert [one.status, two.status] == [422, 422]


def test_a_query_names_parameters_where_a_body_has_pointers() -> None:
    query = Problem(ProblemCode.INVALID_QUERY, faults=[Fault("limit", "out_of_range", "too many")])
    body = refused([Fault("/events/0", "unknown_event_type", "unknown", ("a", "b"))])

    assert query.show("req_1")["errors"][0]["parameter"] == "limit"
    assert body.show("req_1")["errors"][0] == {
        "pointer": "/events/0",
        "code": "unknown_event_type",
        "message": "unknown",
        "nearest": ("a", "b"),
    }


def test_a_flood_of_faults_is_told_in_part() -> None:
    shown = refused([Fault(f"/{n}", "forbidden_character", "no") for n in range(10_000)]).show("req_1")

    assert len(shown["errors"]) == MOST_FAULTS
    assert len(shown["detail"]) < 200
