"""People in Postgres: an invitation works once, and who is removed is out."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import hashlib
from typing import Any

import asyncpg
import pytest

from dispatcher.ledger.accounts import AccountLedger, Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.deeds import Action, Deed, DeedLedger
from dispatcher.ledger.keys import KeyLedger
from dispatcher.ledger.users import MOST_USERS, Accepted, Invited, Taken, TooManyUsers, UserLedger, UserState
from dispatcher.model.access import Role
from dispatcher.policy.roles import SCOPES_OF
from tests.rooms.test_api_harness import a_deed, ledger_template, ledger_url, pool

EMAIL = "ada@example.com"


class Room:
    """One account's people, and a way to let time pass."""

    def __init__(self, pool: Pool, tenant: Tenant, url: str) -> None:
        self.users = UserLedger(pool)
        self.keys = KeyLedger(pool)
        self.deeds = DeedLedger(pool)
        self.tenant = tenant
        self.url = url

    def deed(self, action: Action = Action.USER_INVITED) -> Deed:
        return a_deed(self.tenant, action)

    async def try_invite(self, email: str = EMAIL, role: Role = Role.DEVELOPER) -> Any:
        return await self.users.invite(self.deed(), email, role, expires_in_seconds=60, show=lambda user: b"{}")

    async def invite(self, email: str = EMAIL, role: Role = Role.DEVELOPER) -> Invited:
        invited = await self.try_invite(email, role)
        assert isinstance(invited, Invited)
        return invited

    async def renew(self, user: str) -> Invited:
        invited = await self.users.renew(self.deed(), user, expires_in_seconds=60, show=lambda user: b"{}")
        assert isinstance(invited, Invited)
        return invited

    async def accept(self, token: str) -> Accepted | None:
        return await self.users.accept(token, address="192.0.2.1", request_id="req_2")

    async def join(self, email: str = EMAIL, role: Role = Role.DEVELOPER) -> Accepted:
        accepted = await self.accept((await self.invite(email, role)).token)
        assert accepted is not None
        return accepted

    async def remove(self, user: str) -> bool:
        return await self.users.remove(self.deed(Action.USER_REMOVED), user)

    async def execute(self, statement: str) -> None:
        sql = await asyncpg.connect(self.url)
        await sql.execute(statement)
        await sql.close()


@pytest.fixture
async def room(pool: Pool, ledger_url: str) -> Room:
    return Room(pool, Tenant((await AccountLedger(pool).create()).account_id, "live"), ledger_url)


@pytest.mark.parametrize("role", Role)
async def test_an_invitation_becomes_a_key_of_the_persons_role(room: Room, role: Role) -> None:
    accepted = await room.join(role=role)

    stored = await room.keys.find(accepted.key.key_id)
    assert stored is not None
    assert (stored.bearer.tenant, stored.bearer.scopes) == (room.tenant, SCOPES_OF[role])
    assert (accepted.user.email, accepted.user.role, accepted.user.state) == (EMAIL, role, UserState.ACCEPTED)
    (facts,) = (await room.keys.of_tenant(room.tenant, limit=10)).keys
    assert facts.user_id == accepted.user.public_id


async def test_of_many_who_use_an_invitation_at_once_one_gets_a_key(room: Room) -> None:
    token = (await room.invite()).token

    async with asyncio.TaskGroup() as group:
        tries = [group.create_task(room.accept(token)) for _ in range(5)]

    won = [one.result() for one in tries if one.result() is not None]
    assert len(won) == 1
    assert len((await room.keys.of_tenant(room.tenant, limit=10)).keys) == 1
    assert await room.accept(token) is None


async def test_an_invitation_is_void_once_its_time_is_over(room: Room) -> None:
    invited = await room.invite()
    before = await room.users.find(room.tenant, invited.user.public_id)

    await room.execute("UPDATE app_user SET invitation_expires_at = now()")

    after = await room.users.find(room.tenant, invited.user.public_id)
    assert (before and before.state, after and after.state) == (UserState.PENDING, UserState.EXPIRED)
    assert await room.accept(invited.token) is None


async def test_a_new_invitation_voids_the_one_before_it(room: Room) -> None:
    first = await room.invite()
    await room.execute("UPDATE app_user SET invitation_expires_at = now()")
    second = await room.renew(first.user.public_id)

    answers = [await room.accept(first.token), await room.accept(second.token)]

    assert [one is None for one in answers] == [True, False]


async def test_who_accepts_again_has_the_new_key_and_no_other(room: Room) -> None:
    first = await room.join()
    renewed = await room.renew(first.user.public_id)
    meanwhile = await room.keys.find(first.key.key_id)
    second = await room.accept(renewed.token)

    assert second is not None
    assert renewed.user.state is UserState.ACCEPTED
    assert meanwhile is not None
    assert await room.keys.find(first.key.key_id) is None
    assert await room.keys.find(second.key.key_id) is not None


async def test_removing_a_person_ends_their_key_and_their_invitation(room: Room) -> None:
    accepted = await room.join()
    renewed = await room.renew(accepted.user.public_id)
    program = await room.keys.create(room.tenant)

    answers = [await room.remove(accepted.user.public_id) for _ in range(2)]

    assert answers == [True, False]
    assert await room.keys.find(accepted.key.key_id) is None
    assert await room.keys.find(program.key_id) is not None
    assert await room.accept(renewed.token) is None
    assert await room.users.page(room.tenant, limit=10) == []


async def test_who_is_removed_while_accepting_is_out_whoever_was_first(room: Room) -> None:
    for n in range(8):
        invited = await room.invite(f"n{n}@example.com")
        async with asyncio.TaskGroup() as group:
            accepting = group.create_task(room.accept(invited.token))
            group.create_task(room.remove(invited.user.public_id))
        accepted = accepting.result()
        assert accepted is None or await room.keys.find(accepted.key.key_id) is None


async def test_an_address_is_taken_until_its_person_is_removed(room: Room) -> None:
    first = await room.invite()
    taken = await room.try_invite()
    elsewhere = Room(room.users._pool, Tenant(room.tenant.account_id, "test"), room.url)
    await elsewhere.invite()
    await room.remove(first.user.public_id)

    again = await room.invite()

    assert isinstance(taken, Taken)
    assert again.user.public_id != first.user.public_id


async def test_there_are_as_many_people_as_there_may_be(room: Room) -> None:
    await room.execute(
        "INSERT INTO app_user (public_id, account_id, environment, email, role, invited_by)"
        f" SELECT 'u' || n, {room.tenant.account_id}, 'live', 'n' || n || '@example.com', 'viewer', 'k'"
        f" FROM generate_series(1, {MOST_USERS}) n"
    )

    assert isinstance(await room.try_invite(), TooManyUsers)


async def test_keys_of_people_take_no_place_of_programs(room: Room) -> None:
    await room.join()
    deed = room.deed(Action.KEY_CREATED)
    sql = await asyncpg.connect(room.url)
    rows = await sql.fetch("SELECT count(*) FROM api_key WHERE user_id IS NOT NULL")
    await sql.close()
    counted = await room.keys._pool.fetchrow("count_live_keys", *deed.owner, None)

    assert rows[0]["count"] == 1
    assert counted is not None
    assert (counted["n"], counted["n_named"]) == (0, 0)


async def test_only_a_digest_of_a_token_is_stored_and_none_once_it_was_used(room: Room) -> None:
    invited = await room.invite()
    secret = invited.token[4:47]
    sql = await asyncpg.connect(room.url)
    pending = await sql.fetchrow("SELECT * FROM app_user")
    await room.accept(invited.token)
    used = await sql.fetchrow("SELECT * FROM app_user")
    await sql.close()

    assert pending is not None
    assert used is not None
    assert pending["invitation_sha256"] == hashlib.sha256(secret.encode()).digest()
    assert secret not in repr(tuple(pending)) + repr(invited)
    assert used["invitation_sha256"] is None


async def test_a_token_with_a_wrong_character_is_none(room: Room) -> None:
    token = (await room.invite()).token
    wrong = [token[:-1], token + "0", token[:10] + "é" + token[11:], "whd" + token[3:], token.swapcase(), "", " " * 53]

    assert [await room.accept(text) for text in wrong] == [None] * len(wrong)
    assert await room.accept(token) is not None


async def test_it_is_written_down_who_was_invited_came_and_went_and_by_whose_key(room: Room) -> None:
    ada = await room.join(role=Role.OWNER)
    by_ada = room.deed()._replace(actor=ada.key.key_id)
    bob = await room.users.invite(
        by_ada, "bob@example.com", Role.VIEWER, expires_in_seconds=60, show=lambda user: b"{}"
    )
    await room.remove(ada.user.public_id)
    assert isinstance(bob, Invited)

    lines = await room.deeds.page(room.tenant, limit=10)

    ada_id, bob_id = ada.user.public_id, bob.user.public_id
    assert [(line.action, line.thing, line.actor, line.email) for line in lines] == [
        ("user.removed", ada_id, "key0", None),
        ("user.invited", bob_id, ada.key.key_id, EMAIL),
        ("user.accepted", ada_id, ada.key.key_id, EMAIL),
        ("user.invited", ada_id, "key0", None),
    ]
    assert lines[0].facts["key_ids"] == [ada.key.key_id]
    assert (lines[2].address, lines[2].user_id) == ("192.0.2.1", ada_id)
