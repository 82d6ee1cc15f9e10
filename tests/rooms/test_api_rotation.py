"""Rotating an endpoint's signing secret."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
from typing import Any

import orjson
import pytest

from dispatcher.api.shapes import show_instant
from dispatcher.ledger.connections import Link
from dispatcher.ledger.directory import DirectoryLedger
from dispatcher.model.endpoint import SealedKey
from dispatcher.policy.signing import show_secret
from tests.rooms.test_api_harness import Api, Reply, api, ledger_template, ledger_url, pool, shared_api, vault

ENDPOINTS = "/v1/webhook_endpoints"


async def rotate(api: Api, made: Reply, members: dict[str, Any], **headers: str) -> Reply:
    return await api.call("POST", f"{ENDPOINTS}/{made.body['id']}/rotate_secret", members, headers=headers)


async def stored_keys(api: Api, made: Reply) -> tuple[SealedKey, ...]:
    """Return the keys of an endpoint, newest first, as those who send read them."""
    link = Link(api.database, "test")
    async with api.sql() as sql:
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", made.body["id"])
    (target,) = await DirectoryLedger(link).targets([number])
    await link.aclose()
    return target.sealed_keys


async def signing_secrets(api: Api, made: Reply) -> list[str]:
    """Return what signs for an endpoint, newest first."""
    return [
        show_secret(api.vault.open(key.sealed, f"endpoint_secret:{made.body['id']}:{key.key_id}"))
        for key in await stored_keys(api, made)
    ]


async def test_the_new_secret_is_shown_once_and_both_sign(api: Api) -> None:
    made = await api.create()

    rotated = await rotate(api, made, {})

    read = await api.get(f"{ENDPOINTS}/{made.body['id']}")
    assert await signing_secrets(api, made) == [rotated.body["secret"], made.body["secret"]]
    assert rotated.body["secret_last4"] == read.body["secret_last4"] == rotated.body["secret"][-4:]
    assert rotated.body["previous_secret_last4"] == made.body["secret"][-4:]
    assert read.body["previous_secret_expires_at"] == rotated.body["previous_secret_expires_at"] is not None
    assert read.headers["ETag"] == made.headers["ETag"]
    ends = [show_instant(key.expires_at) for key in await stored_keys(api, made)]
    assert ends == [None, rotated.body["previous_secret_expires_at"]]
    assert rotated.body["secret"].encode() not in read.raw
    assert len(api.changed) == 2


async def test_a_third_secret_needs_force_and_ends_the_oldest(api: Api) -> None:
    made = await api.create()
    second = await rotate(api, made, {})

    refused = await rotate(api, made, {})
    third = await rotate(api, made, {"force": True})

    assert (refused.status, refused.code) == (409, "rotation_under_way")
    assert await signing_secrets(api, made) == [third.body["secret"], second.body["secret"]]


async def test_a_leaked_secret_ends_at_once(api: Api) -> None:
    made = await api.create()

    rotated = await rotate(api, made, {"expires_in": 0})

    assert await signing_secrets(api, made) == [rotated.body["secret"]]
    assert rotated.body["previous_secret_expires_at"] is None
    assert (await rotate(api, made, {"expires_in": 0})).status == 200


async def test_after_the_overlap_the_old_one_signs_no_more_and_the_next_rotation_is_free(api: Api) -> None:
    made = await api.create()
    second = await rotate(api, made, {"expires_in": 60})
    async with api.sql() as sql:
        await sql.execute("UPDATE endpoint_secret SET expires_at = now() WHERE expires_at IS NOT NULL")

    assert await signing_secrets(api, made) == [second.body["secret"]]
    assert (await rotate(api, made, {})).status == 200


@pytest.mark.parametrize("seconds", [-1, 604_801, 1.5, "60", None])
async def test_an_overlap_is_none_to_a_week(api: Api, seconds: object) -> None:
    reply = await rotate(api, await api.create(), {"expires_in": seconds})

    assert reply.status == 422
    assert set(reply.pointers) == {"/expires_in"}


async def test_a_rotation_asked_for_twice_under_one_key_is_done_once(api: Api) -> None:
    made = await api.create()

    async with asyncio.TaskGroup() as group:
        calls = [group.create_task(rotate(api, made, {}, **{"Idempotency-Key": "r"})) for _ in range(4)]

    replies = [call.result() for call in calls]
    shown = [reply.body.pop("secret") for reply in replies]
    assert [reply.status for reply in replies] == [200] * 4
    assert sum(secret is not None for secret in shown) == 1
    assert len({reply.body["secret_last4"] for reply in replies}) == 1
    assert len(await signing_secrets(api, made)) == 2


async def test_the_audit_log_tells_the_ends_of_both_secrets_and_no_more(api: Api) -> None:
    made = await api.create()
    rotated = await rotate(api, made, {})

    async with api.sql() as sql:
        facts = await sql.fetchval(
            "SELECT facts FROM audit_log WHERE thing = $1 AND action = 'endpoint.secret_rotated'", made.body["id"]
        )
    assert orjson.loads(facts) == {
        "secret_last4": rotated.body["secret"][-4:],
        "previous_secret_last4": made.body["secret"][-4:],
        "previous_secret_expires_at": orjson.loads(facts)["previous_secret_expires_at"],
    }
