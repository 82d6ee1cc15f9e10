"""Dead events over HTTP: listed sealed, opened on record, redriven once, discarded."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from dispatcher.ledger.connections import Pool
from dispatcher.ledger.dead_events import DeadEventLedger, DeadPlace
from dispatcher.model.errors import Unavailable
from dispatcher.vault import Vault
from tests.rooms.test_api_harness import Api, PaperKafka, ledger_template, ledger_url, pool, serving, vault

PLACE = DeadPlace("log-1", "verification.events.v1", 3, 41)
PATH = "/v1/dead_events/verification.events.v1%2F3%2F41"
VALUE = b'{"name": "Erika \xff'


@dataclass(frozen=True)
class Morgue:
    """An API, the operator's key in it, and a Kafka to redrive to."""

    api: Api
    kafka: PaperKafka

    async def bury(self, place: DeadPlace = PLACE) -> None:
        async with self.api.sql() as sql:
            await sql.execute(
                "INSERT INTO dead_event (log_id, topic, part, off, reason, detail, key, headers, sealed_value) "
                "VALUES ($1, $2, $3, $4, 'not_json', 'at byte 3', 'ver_1', $5, $6)",
                *place,
                b'[["event-id", "ZTE="], ["none", null]]',
                self.api.vault.seal(VALUE, place.seal),
            )

    async def deeds(self) -> list[str]:
        """Return what was written down about dead events, earliest first."""
        lines = (await self.api.get("/v1/operator_log")).body["data"]
        assert all((line["thing"], line["address"]) == ("verification.events.v1/3/41", "127.0.0.1") for line in lines)
        return [line["action"] for line in reversed(lines)]


@pytest.fixture
async def morgue(ledger_url: str, pool: Pool, vault: Vault) -> AsyncIterator[Morgue]:
    kafka = PaperKafka()
    async with serving(ledger_url, pool, vault, publish=kafka.publish) as api:
        yield Morgue(replace(api, key=await api.new_key(None)), kafka)


async def test_a_dead_event_is_shown_without_its_value_and_opened_on_record(morgue: Morgue) -> None:
    await morgue.bury()

    listed, read = await morgue.api.get("/v1/dead_events"), await morgue.api.get(PATH)
    silent = await morgue.deeds()
    opened = await morgue.api.get(f"{PATH}?value=true")

    (row,) = listed.body["data"]
    shown = {"id": "verification.events.v1/3/41", "reason": "not_json", "key": "ver_1", "has_value": True}
    assert shown.items() <= row.items()
    assert read.body == {
        **row,
        "headers": [{"name": "event-id", "value": "e1"}, {"name": "none", "value": None}],
    }
    assert base64.b64decode(opened.body["value_base64"]) == VALUE
    assert (silent, await morgue.deeds()) == ([], ["dead_event.opened"])


async def test_pages_go_on_where_they_ended(morgue: Morgue) -> None:
    for offset in range(3):
        await morgue.bury(PLACE._replace(offset=offset))

    first = await morgue.api.get("/v1/dead_events?limit=2")
    second = await morgue.api.get(f"/v1/dead_events?limit=2&after={first.body['next']}")

    assert [one["id"][-1] for page in (first, second) for one in page.body["data"]] == ["2", "1", "0"]
    assert second.body["next"] is None


async def test_a_record_is_redriven_once_however_many_ask(morgue: Morgue) -> None:
    await morgue.bury()

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(morgue.api.call("POST", f"{PATH}/redrive")) for _ in range(3)]
    late = await morgue.api.call("POST", f"{PATH}/redrive")

    replies = [call.result() for call in calls]
    assert sorted(reply.status for reply in replies) == [202, 409, 409]
    assert {reply.code for reply in replies if reply.status == 409} <= {"redrive_under_way", "redriven_before"}
    assert (late.status, late.code) == (409, "redriven_before")
    assert morgue.kafka.taken == [(PLACE.topic, VALUE, b"ver_1", [("event-id", b"e1"), ("none", None)])]
    assert (await morgue.api.get(PATH)).body["redriven_at"] is not None
    assert await morgue.deeds() == ["dead_event.redriven"]


async def test_a_redrive_with_a_body_that_says_something_is_refused_and_marks_nothing(morgue: Morgue) -> None:
    await morgue.bury()

    replies = [await morgue.api.call("POST", f"{PATH}/redrive", data=data) for data in (b"{", b'{"dry_run": true}')]

    assert [(reply.status, reply.code) for reply in replies] == [(400, "invalid_json"), (422, "validation_failed")]
    assert morgue.kafka.taken == []
    assert (await morgue.api.get(PATH)).body["redriven_at"] is None


async def test_a_redrive_that_died_can_be_made_again_and_says_when(morgue: Morgue) -> None:
    await morgue.bury()
    # It is killed before Kafka has the record.
    await DeadEventLedger(morgue.api.pool).take(PLACE)

    early = await morgue.api.call("POST", f"{PATH}/redrive")
    shown = (await morgue.api.get(PATH)).body
    async with morgue.api.sql() as sql:
        await sql.execute("UPDATE dead_event SET redriven_at = redriven_at - interval '1 minute'")
    late = await morgue.api.call("POST", f"{PATH}/redrive")

    assert (early.status, early.code) == (409, "redrive_under_way")
    assert 0 < int(early.headers["Retry-After"]) <= 60
    assert (shown["redrive_began_at"] is not None, shown["redriven_at"]) == (True, None)
    assert late.status == 202
    assert len(morgue.kafka.taken) == 1
    assert (await morgue.api.get(PATH)).body["redriven_at"] is not None


async def test_a_record_that_kafka_does_not_take_can_be_redriven_later(morgue: Morgue) -> None:
    await morgue.bury()
    morgue.kafka.fault = Unavailable("Kafka is away")
    failed = await morgue.api.call("POST", f"{PATH}/redrive")
    morgue.kafka.fault = None

    again = await morgue.api.call("POST", f"{PATH}/redrive")

    assert (failed.status, failed.code, again.status) == (503, "unavailable", 202)
    assert await morgue.deeds() == ["dead_event.redriven", "dead_event.put_back", "dead_event.redriven"]


async def test_a_process_without_kafka_says_so_and_marks_nothing(ledger_url: str, pool: Pool, vault: Vault) -> None:
    async with serving(ledger_url, pool, vault, publish=None) as api:
        morgue = Morgue(replace(api, key=await api.new_key(None)), PaperKafka())
        await morgue.bury()

        reply = await morgue.api.call("POST", f"{PATH}/redrive")

        assert (reply.status, reply.code) == (503, "no_kafka")
        assert (await morgue.api.get(PATH)).body["redriven_at"] is None
        assert await morgue.deeds() == []


async def test_what_is_discarded_is_gone(morgue: Morgue) -> None:
    await morgue.bury()

    replies = [await morgue.api.call("DELETE", PATH) for _ in range(2)]

    assert [reply.status for reply in replies] == [204, 404]
    assert await morgue.deeds() == ["dead_event.discarded"]


@pytest.mark.parametrize(
    "place", ["t", "t%2F0", "t%2F0%2F1", "t%2F99999999999%2F1", "%00%2F0%2F1", "t%2F0%2F9999999999999999999"]
)
async def test_what_cannot_be_a_place_is_not_found(morgue: Morgue, place: str) -> None:
    for method, tail in (("GET", ""), ("POST", "/redrive"), ("DELETE", "")):
        assert (await morgue.api.call(method, f"/v1/dead_events/{place}{tail}")).status == 404
