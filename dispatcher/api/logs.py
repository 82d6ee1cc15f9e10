"""Handlers of the logs: deliveries, attempts, events, and the catalogue of event types."""

import datetime as dt
from collections.abc import Sequence
from typing import Any

import orjson

from dispatcher.api.call import Answer, Call
from dispatcher.api.cursors import Cursors, from_micros, to_micros
from dispatcher.api.filters import read_filter, read_types
from dispatcher.api.models import DeliveriesQuery, EventsQuery, LogQuery, PageQuery
from dispatcher.api.problems import Fault, Problem, ProblemCode, not_found
from dispatcher.api.shapes import show_attempt, show_delivery, show_event_type, show_instant, show_stats
from dispatcher.ledger.lists import ListLedger, LogFilter
from dispatcher.ledger.logs import AttemptPlace, DeliveryPlace, EventPage, EventPlace, LoggedAttempt
from dispatcher.model.ids import parse_event_id


async def list_deliveries(call: Call) -> Answer:
    """List the deliveries of an endpoint, newest first."""
    wanted = _wanted(call)
    endpoint = await _endpoint(call)
    return await _deliveries(call, call.cursors(f"deliveries:{endpoint}"), wanted, endpoint)


async def list_all_deliveries(call: Call) -> Answer:
    """List the deliveries of all endpoints, newest first."""
    return await _deliveries(call, call.cursors("deliveries"), _wanted(call), None)


async def read_delivery(call: Call) -> Answer:
    """Show one delivery."""
    ids = call.services.delivery_ids
    found = await call.logs.delivery(call.tenant, _delivery_number(call))
    if found is None:
        raise not_found()
    return Answer(show_delivery(found, ids, call.tenant.environment, call.services.n_attempts))


async def list_endpoint_attempts(call: Call) -> Answer:
    """List the requests made to an endpoint, newest first."""
    query: LogQuery = call.query
    wanted = read_filter(query, call.services.catalogue)
    endpoint = await _endpoint(call)
    cursors = call.cursors(f"attempts:{endpoint}")
    before = _attempt_place(cursors, query.after)
    lists = ListLedger(call.services.pool)
    page = await lists.attempts(call.tenant, endpoint, wanted=wanted, before=before, limit=query.limit)
    return _attempts(call, cursors, page.attempts, page.next)


async def list_delivery_attempts(call: Call) -> Answer:
    """List the requests of one delivery, newest first."""
    query: PageQuery = call.query
    number = _delivery_number(call)
    if await call.logs.delivery(call.tenant, number) is None:
        raise not_found()
    cursors = call.cursors(f"delivery_attempts:{number}")
    before = _attempt_place(cursors, query.after)
    found = await call.logs.attempts_of_delivery(call.tenant, number, before=before, limit=query.limit + 1)
    page = found[: query.limit]
    return _attempts(call, cursors, page, page[-1].place if len(found) > len(page) else None)


async def list_events(call: Call) -> Answer:
    """List events as they are sent, newest first, or as a feed, oldest first."""
    query: EventsQuery = call.query
    types = read_types(query.type, call.services.catalogue)
    cursors = call.cursors(f"events:{query.order}")
    place = None if query.after is None else EventPlace(*cursors.read(query.after, 2))
    read = call.logs.events_after if query.order == "asc" else call.logs.events_before
    if query.wait and query.order != "asc":
        fault = Fault("wait", "not_allowed", "only the feed, `order=asc`, has an end to wait at")
        raise Problem(ProblemCode.INVALID_QUERY, fault.message, faults=[fault])

    async def look() -> EventPage:
        nonlocal place
        page = await read(call.tenant, place, types=types, limit=query.limit)
        place = page.last or place
        return page

    page = await call.services.waiters.until_there(
        call.asker, look, lambda page: bool(page.bodies) or not page.is_end, seconds=query.wait
    )
    shown: dict[str, object] = {"data": [orjson.Fragment(body) for body in page.bodies]}
    last = place or EventPlace(0, 0)
    shown["next"] = None if page.is_end else cursors.show(last)
    if query.order == "asc":
        shown["resume"] = cursors.show(last)
    return Answer(shown)


async def read_event(call: Call) -> Answer:
    """Show one event as it is sent."""
    event_id = parse_event_id(call.path["id"])
    body = None if event_id is None else await call.logs.event(call.tenant, event_id)
    if body is None:
        raise not_found()
    return Answer(orjson.Fragment(body))


async def list_event_types(call: Call) -> Answer:
    """List the event types that exist, in published order."""
    query: PageQuery = call.query
    cursors, begin = call.cursors("event_types"), 0
    if query.after is not None:
        (begin,) = cursors.read(query.after, 1)
    types = call.services.catalogue.types
    end = begin + query.limit
    following = cursors.show([end]) if end < len(types) else None
    return Answer({"data": [show_event_type(one) for one in types[begin:end]], "next": following})


async def read_stats(call: Call) -> Answer:
    """Sum up what an endpoint met within a day and within a week, and what waits for it."""
    number = await _endpoint(call)
    stats, week = await call.logs.stats(number)
    return Answer(show_stats(call.path["id"], stats, week))


async def read_schema(call: Call) -> Answer:
    """Show the JSON schema of an event type's bodies, whole in itself."""
    schema = call.services.publications.schemas.get(call.path["type"])
    if schema is None:
        raise not_found()
    return Answer(orjson.Fragment(schema))


async def read_source_ips(call: Call) -> Answer:
    """Show the addresses that requests come from."""
    services = call.services
    return Answer({"data": services.source_ips, "changes_at": show_instant(services.source_ips_change_at)})


async def read_openapi(call: Call) -> Answer:
    """Show the API's document."""
    return Answer(orjson.Fragment(call.services.publications.openapi))


async def _endpoint(call: Call) -> int:
    number = await call.logs.endpoint_number(call.tenant, call.path["id"])
    if number is None:
        raise not_found()
    return number


def _delivery_number(call: Call) -> int:
    number = call.services.delivery_ids.parse(call.path["id"])
    if number is None:
        raise not_found()
    return number


def _attempt_place(cursors: Cursors, after: str | None) -> AttemptPlace | None:
    if after is None:
        return None
    micros, number, attempt_no = cursors.read(after, 3)
    return AttemptPlace(from_micros(micros), number, attempt_no)


def _attempts(call: Call, cursors: Cursors, page: Sequence[LoggedAttempt], following: AttemptPlace | None) -> Answer:
    shown = [show_attempt(one, call.services.delivery_ids) for one in page]
    if following is None:
        return _page(shown, None, None)
    at = following.started_at
    return _page(shown, cursors.show([to_micros(at), *following[1:]]), at)


def _page(shown: list[dict[str, Any]], following: str | None, searched_to: dt.datetime | None) -> Answer:
    return Answer({"data": shown, "next": following, "searched_to": show_instant(searched_to)})


def _wanted(call: Call) -> LogFilter:
    query: DeliveriesQuery = call.query
    return read_filter(query, call.services.catalogue, status=query.status)


async def _deliveries(call: Call, cursors: Cursors, wanted: LogFilter, endpoint: int | None) -> Answer:
    query: DeliveriesQuery = call.query
    before = None
    if query.after is not None:
        micros, number = cursors.read(query.after, 2)
        before = DeliveryPlace(from_micros(micros), number)
    lists = ListLedger(call.services.pool)
    page = await lists.deliveries(call.tenant, endpoint, wanted=wanted, before=before, limit=query.limit)
    ids, environment = call.services.delivery_ids, call.tenant.environment
    n_attempts = call.services.n_attempts
    shown = [show_delivery(one, ids, environment, n_attempts) for one in page.deliveries]
    if page.next is None:
        return _page(shown, None, None)
    at = page.next.created_at
    return _page(shown, cursors.show([to_micros(at), page.next.delivery_id]), at)
