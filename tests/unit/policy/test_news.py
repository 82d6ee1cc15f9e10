"""Operational events: what they say, under which id, and of what they are never made."""

import datetime as dt
from typing import Any

import jsonschema_rs
import orjson
import pytest

from dispatcher.model.ids import parse_event_id, show_event_id
from dispatcher.model.news import News, NewsKind
from dispatcher.model.outcome import OutcomeKind, Verdict, VerdictKind
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.news import delivery_exhausted, endpoint_disabled, endpoint_failing, error_of, is_news
from dispatcher.policy.schema_files import EVENT_URN, load_catalogue, load_event_schemas, schema_folder
from tests.support.builders import BORN, a_delivery, a_settlement, an_outcome, concerned

REGISTRY = jsonschema_rs.Registry(list(load_event_schemas(schema_folder()).documents.items()))
EXHAUSTED = Verdict(VerdictKind.EXHAUSTED, 10)
DISABLED = {"disabled_reason": "gone", "held_since": BORN, "n_pending": 312}


def failing(since: dt.datetime = BORN, **changes: Any) -> News:
    return endpoint_failing(concerned(**changes), failing_since=since, failures=41, last_error="http_500")


def exhausted(attempt_no: int = 10, outcome: OutcomeKind = OutcomeKind.HTTP_5XX, status: int | None = 500) -> News:
    settlement = a_settlement(outcome=an_outcome(outcome, status=status), verdict=EXHAUSTED, attempt_no=attempt_no)
    settlement = settlement._replace(delivery=settlement.delivery._replace(public_event_id=show_event_id(b"e" * 20)))
    return delivery_exhausted(concerned(), settlement, "dlv_fcgj3zgmfga3y")


@pytest.mark.parametrize(
    "news",
    [
        failing(),
        endpoint_failing(concerned(), failing_since=BORN, failures=3, last_error=None),
        endpoint_disabled(concerned(**DISABLED)),
        endpoint_disabled(concerned(environment="test", **{**DISABLED, "disabled_reason": "failing_5_days"})),
        exhausted(),
        exhausted(1, OutcomeKind.DNS_ERROR, None),
    ],
    ids=lambda news: news.kind,
)
def test_a_body_fulfils_the_published_schema_of_its_type(news: News) -> None:
    body = orjson.loads(news.body)
    schema = {"$ref": f"{EVENT_URN}:{news.kind}"}
    jsonschema_rs.Draft202012Validator(schema, validate_formats=True, registry=REGISTRY, offline=True).validate(body)

    assert parse_event_id(body["id"]) == news.event_id
    assert (body["account_id"], body["environment"]) == (news.about.account, news.about.environment)
    assert body["test"] is False


def test_a_failing_endpoint_is_told_of_as_published() -> None:
    assert orjson.loads(failing().body)["data"] == {
        "endpoint": {
            "id": "we_0000000000000001",
            "status": "failing",
            "failing_since": "2026-11-03T09:24:55.312Z",
            "consecutive_failures": 41,
            "last_error": "http_500",
        }
    }


def test_one_transition_has_one_id_whenever_it_is_told() -> None:
    later = BORN + dt.timedelta(hours=1)

    assert failing().event_id == failing(at=later).event_id
    assert exhausted().event_id == exhausted().event_id


def test_every_transition_has_an_id_of_its_own() -> None:
    moment = BORN + dt.timedelta(microseconds=1)
    told = [
        failing(),
        failing(moment),
        failing(public_id="we_0000000000000002"),
        endpoint_disabled(concerned(**DISABLED)),
        endpoint_disabled(concerned(**{**DISABLED, "held_since": moment})),
        exhausted(),
        exhausted(11),
    ]

    assert len({news.event_id for news in told}) == len(told)


@pytest.mark.parametrize("kind", list(VerdictKind))
def test_giving_up_and_being_gone_are_news(kind: VerdictKind) -> None:
    settlement = a_settlement(verdict=Verdict(kind, 1))

    assert is_news(settlement) is (kind in {VerdictKind.EXHAUSTED, VerdictKind.GONE})


@pytest.mark.parametrize("kind", list(NewsKind))
def test_news_that_were_given_up_are_no_news(kind: NewsKind) -> None:
    assert not is_news(a_settlement(a_delivery(event_type=kind), verdict=EXHAUSTED))


def test_the_kinds_are_the_operational_types_of_the_catalogue() -> None:
    types = Catalogue.from_document(load_catalogue(schema_folder())).types

    assert set(NewsKind) == {one.name for one in types if one.operational}


@pytest.mark.parametrize(
    ("status", "outcome", "word"),
    [(503, "http_5xx", "http_503"), (None, "dns_error", "dns_error"), (None, None, None)],
)
def test_an_error_is_one_word(status: int | None, outcome: str | None, word: str | None) -> None:
    assert error_of(status, outcome) == word
