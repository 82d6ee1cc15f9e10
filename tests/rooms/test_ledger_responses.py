"""What endpoints answered: kept with the attempt, byte for byte, read back by its owner alone."""

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest

from dispatcher.kit import clock
from dispatcher.ledger.accounts import Tenant
from dispatcher.ledger.attempts import AttemptLedger
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.logs import LoggedResponse
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.delivery import Delivery, Settlement
from dispatcher.model.outcome import Outcome, OutcomeKind, Verdict, VerdictKind
from tests.rooms.ledger_world import Process, World, a_batch, an_event, open_ledger
from tests.support.servers import DatabaseServer

HEADERS = [(b"Content-Type", b"text/html; charset=latin-1"), (b"X-Odd", bytes(range(1, 256))), (b"X-Odd", b"")]
BODY = b"\x00\xff<html>no" + b"x" * 16_000


@pytest.fixture
async def world(postgres_server: DatabaseServer) -> AsyncIterator[World]:
    async with open_ledger(postgres_server) as made:
        yield made


class Responses(AttemptLedger):
    """Reads what attempts were answered."""

    async def of(self, tenant: Tenant, delivery_id: int, attempt_no: int) -> LoggedResponse | None:
        """Return it, None where there is no such attempt or no answer of it."""
        found = await self.find(tenant, delivery_id, attempt_no)
        return None if found is None else found.response


@pytest.fixture
async def responses(world: World) -> AsyncIterator[Responses]:
    pool = await Pool.open(world.url)
    yield Responses(pool)
    await pool.aclose()


async def a_delivery(world: World, process: Process) -> Delivery:
    """Accept one event for one endpoint and return its delivery."""
    account = await world.account()
    await world.endpoint(account)
    (delivery,) = (await process.accept(a_batch([an_event(account)]))).fresh
    return delivery


def answered(delivery: Delivery, kind: OutcomeKind, status: int | None, **response: Any) -> Settlement:
    """Return the settlement of a first attempt with this answer."""
    verdict = Verdict(VerdictKind.RETRY, 1, 60.0)
    if kind is OutcomeKind.DELIVERED:
        verdict = Verdict(VerdictKind.DELIVERED, 1)
    now = clock.mono()
    return Settlement(delivery, Outcome(kind, 0.01, status, **response), verdict, 1, now - 0.05, now)


async def test_a_response_is_read_back_byte_for_byte(world: World, responses: Responses) -> None:
    process = await world.process()
    delivery = await a_delivery(world, process)
    tenant = Tenant(delivery.account_id, "live")

    await process.settlements.settle(
        [answered(delivery, OutcomeKind.HTTP_5XX, 503, headers=HEADERS, body=BODY, body_cut=True)]
    )

    found = await responses.of(tenant, delivery.delivery_id, 1)
    assert found is not None
    assert (found.status, list(found.headers), found.body, found.is_cut) == (503, HEADERS, BODY, True)
    assert found.started_at == await world.value("SELECT started_at FROM attempt")


@pytest.mark.parametrize(
    ("kind", "status", "body", "is_kept"),
    [
        (OutcomeKind.DELIVERED, 204, b"", False),
        (OutcomeKind.DELIVERED, 200, b"ok", True),
        (OutcomeKind.HTTP_3XX, 302, b"", True),
        (OutcomeKind.HTTP_5XX, 500, b"", True),
        (OutcomeKind.TIMEOUT_RESPONSE, None, b"", False),
        (OutcomeKind.DNS_ERROR, None, b"", False),
    ],
)
async def test_only_an_answer_that_says_something_has_a_row(
    world: World, responses: Responses, kind: OutcomeKind, status: int | None, body: bytes, is_kept: bool
) -> None:
    process = await world.process()
    delivery = await a_delivery(world, process)

    await process.settlements.settle([answered(delivery, kind, status, headers=HEADERS, body=body)])

    found = await responses.of(Tenant(delivery.account_id, "live"), delivery.delivery_id, 1)
    assert (found is not None) is is_kept
    assert await world.value("SELECT count(*) FROM attempt") == 1


async def test_nobody_else_reads_a_response(world: World, responses: Responses) -> None:
    process = await world.process()
    delivery = await a_delivery(world, process)
    await process.settlements.settle([answered(delivery, OutcomeKind.HTTP_4XX, 404, body=b"secret")])
    owner = Tenant(delivery.account_id, "live")

    assert await responses.of(owner, delivery.delivery_id, 1) is not None
    assert await responses.of(owner._replace(environment="test"), delivery.delivery_id, 1) is None
    assert await responses.of(owner._replace(account_id=owner.account_id + 1), delivery.delivery_id, 1) is None
    assert await responses.of(owner, delivery.delivery_id, 2) is None


async def test_a_repeated_flush_keeps_a_response_once(world: World) -> None:
    process = await world.process()
    delivery = await a_delivery(world, process)
    batch = [answered(delivery, OutcomeKind.HTTP_5XX, 500, body=b"no")]

    await process.settlements.settle(batch)
    process.settlements._flush_seq -= 1
    await process.settlements.settle(batch)

    assert await world.value("SELECT count(*) FROM response") == 1


async def test_a_response_is_found_by_index(world: World) -> None:
    # Tables without rows are read whole whatever the index.
    await world.sql.execute("SET enable_seqscan = off")

    plan = str(await world.rows("EXPLAIN " + STATEMENTS["whole_attempt"], 1, "live", 1, 1))

    assert re.search(r"attempt_\d+_delivery_id_idx", plan)
    assert re.search(r"response_\d+_delivery_id_idx", plan)
    assert "Seq Scan" not in plan
