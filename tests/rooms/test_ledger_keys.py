"""API keys in Postgres."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import hashlib
import re

import asyncpg
import pytest

from dispatcher.ledger.accounts import AccountLedger, Tenant
from dispatcher.ledger.connections import LISTED, Pool
from dispatcher.ledger.keys import KeyFacts, KeyLedger, KeyPlace, matches, parse_key
from dispatcher.ledger.statements import STATEMENTS
from dispatcher.model.access import OPERATOR_SCOPES, TENANT_SCOPES, Scope
from tests.rooms.test_api_harness import ledger_template, ledger_url, pool


@pytest.fixture
async def tenant(pool: Pool) -> Tenant:
    return Tenant((await AccountLedger(pool).create()).account_id, "live")


async def test_a_key_is_found_by_its_id_and_known_by_its_secret(pool: Pool, tenant: Tenant) -> None:
    keys = KeyLedger(pool)
    made = await keys.create(tenant)
    parts = parse_key(made.text)

    assert parts is not None
    stored = await keys.find(parts.key_id)
    assert stored is not None
    assert matches(parts, stored)
    assert not matches(parts._replace(secret_sha256=b"x" * 32), stored)
    assert (stored.bearer.tenant, stored.bearer.scopes) == (tenant, TENANT_SCOPES)
    assert (stored.bearer.account or "").startswith("acct_")
    assert made.text.startswith(f"whd_live_{made.key_id}_")


async def test_only_a_digest_of_a_key_is_stored(pool: Pool, tenant: Tenant, ledger_url: str) -> None:
    made = await KeyLedger(pool).create(tenant)

    sql = await asyncpg.connect(ledger_url)
    (row,) = await sql.fetch("SELECT * FROM api_key")
    await sql.close()
    secret = made.text.rpartition("_")[2][:43]
    assert row["secret_sha256"] == hashlib.sha256(secret.encode()).digest()
    assert secret not in repr(tuple(row))
    assert secret not in repr(made)


async def test_a_revoked_key_is_not_found_and_cannot_be_revoked_again(pool: Pool, tenant: Tenant) -> None:
    keys = KeyLedger(pool)
    made = await keys.create(tenant)

    answers = [await keys.revoke(made.key_id), await keys.revoke(made.key_id), await keys.revoke("nope")]

    assert answers == [True, False, False]
    assert await keys.find(made.key_id) is None
    (facts,) = await keys.page(tenant.account_id)
    assert facts.revoked_at is not None


async def test_use_is_noted_by_the_hour_and_once(pool: Pool, tenant: Tenant, ledger_url: str) -> None:
    keys = KeyLedger(pool)
    made = await keys.create(tenant)
    sql = await asyncpg.connect(ledger_url)
    await sql.execute("UPDATE api_key SET created_at = created_at - interval '2 hours'")
    await sql.close()
    before = await keys.find(made.key_id)

    await keys.touch(made.key_id)
    after = await keys.find(made.key_id)

    (facts,) = await keys.page(tenant.account_id)
    assert before is not None
    assert after is not None
    assert [before.is_fresh, after.is_fresh] == [False, True]
    assert facts.last_used_at is not None
    assert (facts.last_used_at.minute, facts.last_used_at.second, facts.last_used_at.microsecond) == (0, 0, 0)


async def test_no_key_was_used_before_it_was_made(pool: Pool, tenant: Tenant) -> None:
    keys = KeyLedger(pool)
    made = await keys.create(tenant)

    await keys.touch(made.key_id)
    await keys.touch(made.key_id)

    (facts,) = await keys.page(tenant.account_id)
    assert facts.last_used_at is not None
    assert facts.last_used_at >= facts.created_at


async def test_an_account_may_hold_several_live_keys(pool: Pool, tenant: Tenant) -> None:
    keys = KeyLedger(pool)
    made = [await keys.create(tenant, name=str(n)) for n in range(3)]
    await keys.create(None)

    assert {facts.key_id for facts in await keys.page(tenant.account_id)} == {key.key_id for key in made}


async def test_an_operators_key_has_no_tenant_and_its_own_scope(pool: Pool) -> None:
    keys = KeyLedger(pool)
    made = await keys.create(None)
    stored = await keys.find(made.key_id)

    assert made.text.startswith("whd_op_")
    assert stored is not None
    assert (stored.bearer.tenant, stored.bearer.account, stored.bearer.scopes) == (None, None, OPERATOR_SCOPES)


async def test_scopes_of_the_other_kind_are_refused(pool: Pool, tenant: Tenant) -> None:
    keys = KeyLedger(pool)
    for who, scopes in ((tenant, [Scope.OPERATOR]), (None, [Scope.EVENTS_READ]), (tenant, [])):
        with pytest.raises(ValueError, match="scopes"):
            await keys.create(who, scopes=scopes)


async def test_a_key_for_an_account_that_does_not_exist_is_refused(pool: Pool) -> None:
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await KeyLedger(pool).create(Tenant(999, "live"))


async def make_keys(sql: asyncpg.Connection, tenant: Tenant, n: int, *, end: str) -> None:
    """Make keys of earlier days, one a minute; `end` says of each, by `n`, when it was revoked or expired."""
    await sql.execute(
        "INSERT INTO api_key (key_id, secret_sha256, account_id, environment, scopes, created_at, revoked_at,"
        " expires_at) SELECT substr(md5(random()::text), 1, 12), sha256(''), $1, $2, '{}',"
        f" now() - n * interval '1 minute', {end} FROM generate_series(1, $3::int) n",
        *tenant,
        n,
    )


async def listed(keys: KeyLedger, tenant: Tenant, *, limit: int) -> list[KeyFacts]:
    found: list[KeyFacts] = []
    place: KeyPlace | None = None
    while not found or place is not None:
        page = await keys.of_tenant(tenant, after=place, limit=limit)
        assert len(page.keys) == limit or page.next is None
        found += page.keys
        place = page.next
    return found


@pytest.mark.parametrize("limit", [1, 4, 7, 100])
async def test_keys_are_paged_live_ones_first_then_the_ended_the_last_first(
    pool: Pool, tenant: Tenant, ledger_url: str, limit: int
) -> None:
    sql = await asyncpg.connect(ledger_url)
    await make_keys(sql, tenant, 4, end="NULL, CASE WHEN n > 2 THEN now() + interval '1 day' END")
    await make_keys(sql, tenant, 4, end="now() - interval '1 hour' / (n % 2 + 1), NULL")
    await make_keys(sql, tenant, 3, end="NULL, now() - n * interval '2 hours'")
    await make_keys(sql, tenant, 1, end="now() - interval '1 day', now() + interval '1 day'")
    await make_keys(sql, tenant._replace(environment="test"), 3, end="NULL, NULL")

    found = await listed(KeyLedger(pool), tenant, limit=limit)
    now = await sql.fetchval("SELECT now()")
    await sql.close()

    assert len({one.key_id for one in found}) == len(found) == 12
    live = found[:4]
    ended = [min(one.revoked_at or now, one.expires_at or now) for one in found[4:]]
    assert all(one.revoked_at is None and (one.expires_at or now) >= now for one in live)
    assert [one.created_at for one in live] == sorted((one.created_at for one in live), reverse=True)
    assert max(ended) < now
    assert ended == sorted(ended, reverse=True)


async def test_ended_keys_cost_neither_the_list_nor_the_makers_of_keys(
    pool: Pool, tenant: Tenant, ledger_url: str
) -> None:
    sql = await asyncpg.connect(ledger_url, server_settings=LISTED)
    await make_keys(sql, tenant, 3_000, end="CASE WHEN n % 2 = 0 THEN now() END, now()")
    await sql.execute("ANALYZE api_key")
    far, near = "'9000-01-01', ''", "'1970-01-01', ''"
    for statement, rest in (
        ("keys_of_tenant", f"{far}, {far}, 26"),
        ("keys_of_tenant", f"{near}, {far}, 26"),
        ("count_live_keys", "'name'"),
    ):
        await sql.execute(f"PREPARE planned AS {STATEMENTS[statement]}")
        given = f"{tenant.account_id}, 'live', {rest}"
        text = f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) EXECUTE planned({given})"
        plan = "\n".join(row[0] for row in await sql.fetch(text))
        await sql.execute("DEALLOCATE planned")

        given_rows = [round(float(n)) for n in re.findall(r"rows=([\d.]+) loops", plan)]
        assert max([*given_rows, *map(int, re.findall(r"Removed by .*: (\d+)", plan))]) <= 52, plan
    await sql.close()
