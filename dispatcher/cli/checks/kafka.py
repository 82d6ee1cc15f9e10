"""Kafka: reachable, with the topics, and how far they have been read."""

from collections.abc import AsyncIterator
from typing import Final

from dispatcher.cli.checks.finding import Finding, fail, ok, skip, warn
from dispatcher.cli.checks.places import Places
from dispatcher.intake.survey import Survey, survey
from dispatcher.ledger.checkup import Checkup
from dispatcher.ledger.connections import Pool
from dispatcher.model.errors import Unavailable

_MUCH_LAG: Final = 10_000


async def look_at_kafka(places: Places) -> AsyncIterator[Finding]:
    """Give what there is to say of Kafka."""
    if places.kafka is None:
        yield skip("kafka", "no address is known", "set DISPATCHER_KAFKA__BOOTSTRAP_SERVERS")
        return
    try:
        seen = await survey(places.kafka)
    except Unavailable as fault:
        cure = "check DISPATCHER_KAFKA__BOOTSTRAP_SERVERS, security settings, and the way to every advertised broker"
        yield fail("kafka", str(fault), cure)
        return
    yield ok(
        "kafka", f"brokers: {seen.n_brokers}, connected in {seen.connect_seconds * 1_000:.0f} ms, log {seen.log_id}"
    )
    for topic in seen.missing:
        yield fail("topics", f"there is no topic {topic}", "make it, or set DISPATCHER_KAFKA__TOPICS")
    if seen.ends:
        n_topics = len({topic for topic, _ in seen.ends})
        yield ok("topics", f"{n_topics} topics with {len(seen.ends)} partitions")
        yield await _lag(places.database_url, seen)


async def _lag(database_url: str | None, seen: Survey) -> Finding:
    if database_url is None:
        return skip("lag", "positions are in Postgres, whose address is not known")
    try:
        pool = await Pool.open(database_url, size=1)
        try:
            positions = await Checkup(pool).positions(seen.log_id)
        finally:
            await pool.aclose()
    except Unavailable as fault:
        return skip("lag", f"positions cannot be read: {fault}")
    return lag_finding(seen, positions)


def lag_finding(seen: Survey, positions: dict[tuple[str, int], int]) -> Finding:
    """Judge how many records have not been taken in; a partition never read counts from its beginning."""
    lag = sum(max(0, end - positions.get(place, seen.beginnings[place])) for place, end in seen.ends.items())
    beyond = [f"{topic}/{part}" for (topic, part), end in seen.ends.items() if positions.get((topic, part), 0) > end]
    if beyond:
        cure = (
            "the log was made anew or lost its end; it is read from its beginning, and `position_beyond_log` is logged"
        )
        return warn("lag", f"positions lie beyond the end of {', '.join(beyond)}", cure)
    detail = f"{lag} records to be read"
    if lag >= _MUCH_LAG:
        return warn("lag", detail, "more processes with the role ingest read faster; look for `intake_waits` in logs")
    return ok("lag", detail)
