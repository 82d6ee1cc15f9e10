"""The filters of `deliveries list` and `attempts list`, and one attempt shown whole, against a real API."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import pytest

from dispatcher.ledger.responses import dump_headers
from dispatcher.model.access import Scope
from tests.rooms.test_api_harness import Seeds, api, ledger_template, ledger_url, pool, shared_api, vault
from tests.rooms.test_cli_commands import Shop, shop


async def ids(shop: Shop, *words: str) -> set[str]:
    """Return the deliveries that a list names."""
    said = await shop.terminal.run(*words, "-o", "json")
    return {one.get("delivery_id") or one["id"] for one in said.json}


async def test_deliveries_are_filtered_as_the_api_filters(shop: Shop) -> None:
    async with shop.api.sql() as sql:
        seeds = Seeds(sql, shop.api.tenant)
        event = await seeds.event("verification.created")
        there = shop.api.services.delivery_ids.show(await seeds.delivery(await seeds.endpoint(), event_id=event))
        # An open delivery is found by its event only where both came to be in the same statement.
        await sql.execute(
            "UPDATE delivery SET created_at = e.ingested_at FROM event e WHERE e.event_id = delivery.event_id"
        )
    everywhere = {shop.delivery, shop.ended, there}
    expected = {
        "": everywhere,
        f"--endpoint {shop.endpoint}": {shop.delivery, shop.ended},
        "--status exhausted --status held": {shop.ended},
        "--status retrying,exhausted": {shop.delivery, shop.ended},
        f"--event {shop.event}": {shop.delivery},
        "--type check.* --type verification.created": {there},
        "--outcome 5xx --outcome no_answer": {shop.delivery, shop.ended},
        "--outcome 4xx": set(),
        "--no-test --since 1d --until 0s": everywhere,
        "--test": set(),
        "--since 2000-01-01 --until 1d": set(),
        "--subject ver_8Zk3QmT1xW5n --status pending": {there},
        "--subject ver_nobody": set(),
        "--client-reference user-4711 --status pending": {there},
        "--client-reference nobody": set(),
    }

    found = {words: await ids(shop, "deliveries", "list", *words.split()) for words in expected}

    assert found == expected


async def test_attempts_are_filtered_as_the_api_filters(shop: Shop) -> None:
    expected = {
        "": {shop.delivery, shop.ended},
        f"--event {shop.event} --outcome 5xx --outcome no_answer": {shop.delivery},
        f"--event {shop.event} --outcome 2xx": set(),
        "--type verification.*": {shop.delivery, shop.ended},
        "--type check.*": set(),
        "--subject ver_nobody": set(),
        "--client-reference nobody": set(),
        "--since 1h --no-test": {shop.delivery, shop.ended},
        "--until 1h": set(),
        "--test": set(),
    }

    found = {
        words: await ids(shop, "attempts", "list", "--endpoint", shop.endpoint, *words.split()) for words in expected
    }

    assert found == expected


async def test_deliveries_of_all_endpoints_tell_which(shop: Shop) -> None:
    everywhere = await shop.terminal.run("deliveries", "list")
    of_one = await shop.terminal.run("deliveries", "list", "--endpoint", shop.endpoint)

    assert shop.endpoint in everywhere.out
    assert shop.endpoint not in of_one.out


@pytest.mark.parametrize("may_read", [True, False], ids=["bodies", "no bodies"])
async def test_an_attempt_is_shown_as_it_was_sent_and_answered(shop: Shop, may_read: bool) -> None:
    async with shop.api.sql() as sql:
        await sql.execute(
            "INSERT INTO response SELECT started_at, delivery_id, attempt_no, $2, $3, true FROM attempt "
            "WHERE delivery_id = $1",
            shop.api.services.delivery_ids.parse(shop.delivery),
            dump_headers([(b"Content-Type", b"text/plain"), (b"X-Odd", b"\x9b2J")]),
            b"over capacity\n\x1b[2Jtry later",
        )
    if not may_read:
        shop.terminal.environment["DISPATCHER_API_KEY"] = await shop.api.new_key(
            shop.api.tenant, [Scope.DELIVERIES_READ]
        )

    said = await shop.terminal.run("attempts", "show", shop.delivery, "1")

    lines = said.out.splitlines()
    assert lines[2] == "POST https://example.com/hooks"
    assert {f"x-webhook-delivery: {shop.delivery}", "HTTP 503", "Content-Type: text/plain"} < set(lines)
    assert any(line.startswith("retry  503 http_5xx in 20 ms") for line in lines)
    assert lines.count("(a body needs a key with the scope payloads:read)") == (0 if may_read else 2)
    if may_read:
        assert any(line.startswith('{"id":"evt_') for line in lines)
        assert lines[-2:] == ["over capacity", "\\x1b[2Jtry later"]
    assert "\x1b" not in said.out
    assert "\x9b" not in said.out
