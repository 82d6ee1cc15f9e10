"""People at the command line: handed over, let in, put out; against a real API."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import json
from pathlib import Path

import pytest

from dispatcher.model.access import Role, Scope
from dispatcher.policy.roles import SCOPES_OF
from tests.rooms.test_api_harness import Api, api, ledger_template, ledger_url, pool, shared_api, vault
from tests.support.terminal import Terminal


class Desk:
    """The terminal of who invites, and that of who comes, which knows no key yet."""

    def __init__(self, api: Api, folder: Path) -> None:
        self.api = api
        self.folder = folder
        known = {"DISPATCHER_API_URL": api.url, "DISPATCHER_DATA_DIR": str(folder)}
        self.host = Terminal({**known, "DISPATCHER_API_KEY": api.key, "XDG_CONFIG_HOME": str(folder / "host")})
        self.guest = Terminal({**known, "XDG_CONFIG_HOME": str(folder / "guest")})

    async def invite(self, email: str = "ada@example.com", role: str = "developer") -> str:
        said = await self.host.run("users", "invite", email, "--role", role, "-o", "json")
        token: str = said.json["token"]
        return token


@pytest.fixture
def desk(api: Api, tmp_path: Path) -> Desk:
    return Desk(api, tmp_path)


async def test_an_invitation_is_handed_over_with_the_command_that_takes_it(desk: Desk) -> None:
    said = await desk.host.run("users", "invite", "Ada@Example.com", "--role", "viewer")
    listed = await desk.host.run("users", "list")
    token = next(line.split()[-1] for line in said.out.splitlines() if line.startswith("token"))
    accepted = await desk.guest.run("users", "accept", typed=f"{token}\n")

    assert "No mail is sent" in said.err
    assert f"dispatcher users accept --api-url {desk.api.url}" in said.err
    assert "ada@example.com" in listed.out
    assert token not in listed.out
    assert "you are ada@example.com, viewer in test" in accepted.err


@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
async def test_who_accepts_works_with_a_key_that_was_never_shown(desk: Desk, form: str) -> None:
    token = await desk.invite()

    said = await desk.guest.run("users", "accept", "-", "--profile", "ada", "-o", form, typed=f"{token}\n")

    assert "whd_" not in said.out + said.err
    assert form == "table" or json.loads(said.out)["email"] == "ada@example.com"
    await desk.guest.run("endpoints", "list")
    refused = await desk.guest.run("keys", "list", code=1)
    assert "keys:write" in refused.err
    file = desk.folder / "guest" / "dispatcher" / "profiles.toml"
    assert file.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("form", ["table", "json", "jsonl"])
async def test_the_key_is_shown_to_who_asks_for_it(desk: Desk, form: str) -> None:
    token = await desk.invite()

    said = await desk.guest.run("users", "accept", token, "--show-key", "-o", form)

    key = said.out.strip() if form == "table" else json.loads(said.out)["key"]
    assert (await desk.api.get("/v1/event_types", key=key)).status == 200


async def test_a_token_that_is_no_good_any_more_is_answered_with_what_to_do(desk: Desk) -> None:
    token = await desk.invite()
    await desk.guest.run("users", "accept", token)

    used = await desk.guest.run("users", "accept", token, "--profile", "again", code=1)
    mistyped = await desk.guest.run("users", "accept", token[:-1], "--profile", "again", code=2)
    pasted = await desk.guest.run("users", "accept", desk.api.key, "--profile", "again", code=2)

    assert "dispatcher users renew" in used.err
    assert "invitation_void" in used.err
    assert "whi_ and 49" in mistyped.err
    assert "whi_ and 49" in pasted.err


async def test_an_invitation_is_not_used_up_where_the_key_cannot_be_kept(desk: Desk) -> None:
    token = await desk.invite()
    await desk.guest.run("users", "accept", await desk.invite("bob@example.com"), "--profile", "taken")

    taken = await desk.guest.run("users", "accept", token, "--profile", "taken", code=2)
    bad = await desk.guest.run("users", "accept", token, "--profile", "b a d", code=2)
    config = desk.guest.environment.pop("XDG_CONFIG_HOME")
    # Nobody may make a folder there, not even root.
    desk.guest.environment["XDG_CONFIG_HOME"] = "/proc/nobodys"
    unwritable = await desk.guest.run("users", "accept", token, code=1)
    desk.guest.environment["XDG_CONFIG_HOME"] = config

    assert "profile remove taken" in taken.err
    assert "--profile" in bad.err
    assert "/proc/nobodys" in unwritable.err
    await desk.guest.run("users", "accept", token)


async def test_a_token_goes_nowhere_but_where_a_person_says(desk: Desk) -> None:
    token = await desk.invite()
    del desk.guest.environment["DISPATCHER_API_URL"]
    ready = {"api_url": desk.api.url, "api_keys": {"test": desk.api.key}}
    (desk.folder / "ready.json").write_text(json.dumps(ready))

    nowhere = await desk.guest.run("users", "accept", token, code=2)
    away = await desk.guest.run("users", "accept", token, "--api-url", "http://127.0.0.1:1", code=1)
    embedded = await desk.guest.run("users", "accept", token, "--api-url", desk.api.url)

    assert "--api-url" in nowhere.err
    assert "used up" in away.err
    assert "give --profile default" in embedded.err


async def test_people_are_renewed_and_removed_by_address_or_id(desk: Desk) -> None:
    await desk.guest.run("users", "accept", await desk.invite())
    renewed = (await desk.host.run("users", "renew", "ADA@example.com", "--expires-in", "1h", "-o", "json")).json
    await desk.guest.run("users", "accept", renewed["token"], "--profile", "second")
    old = await desk.guest.run("endpoints", "list", "--profile", "default", code=1)
    await desk.guest.run("endpoints", "list", "--profile", "second")

    removed = await desk.host.run("users", "remove", renewed["id"], "--yes")
    nobody = await desk.host.run("users", "remove", "ada@example.com", "--yes", code=1)

    assert "401" in old.err
    assert "removed ada@example.com (developer, test)" in removed.err
    assert "users list" in nobody.err


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ("users invite nobody --role viewer", 1, ("/email: ", "ada@example.com")),
        ("users invite ada@example.com", 2, ("--role",)),
        ("users invite ada@example.com --role king", 2, ("owner", "developer", "viewer")),
        ("users invite ada@example.com --role viewer --expires-in 31d", 2, ("--expires-in", "30d")),
        ("users renew usr_nobody", 1, ("users list",)),
        ("users renew ../api_keys", 1, ("users list",)),
    ],
)
async def test_a_mistake_is_answered_with_what_to_do(desk: Desk, words: str, code: int, parts: tuple[str, ...]) -> None:
    said = await desk.host.run(*words.split(), code=code)

    for part in parts:
        assert part in said.err


async def test_who_is_there_already_is_not_invited_twice(desk: Desk) -> None:
    await desk.invite()

    said = await desk.host.run("users", "invite", "ADA@example.com", "--role", "viewer", code=1)

    assert "users renew" in said.err


async def test_nobody_invites_to_more_than_they_may_do(desk: Desk) -> None:
    held = SCOPES_OF[Role.VIEWER] | {Scope.KEYS_WRITE}
    desk.host.environment["DISPATCHER_API_KEY"] = await desk.api.new_key(desk.api.tenant, sorted(held))

    refused = await desk.host.run("users", "invite", "ada@example.com", "--role", "developer", code=1)
    await desk.host.run("users", "invite", "ada@example.com", "--role", "viewer")

    assert "endpoints:write" in refused.err


async def test_the_shell_offers_the_people_that_there_are(desk: Desk) -> None:
    await desk.invite()
    words = {"_DISPATCHER_COMPLETE": "complete_bash", "COMP_WORDS": "dispatcher users remove usr_", "COMP_CWORD": "3"}
    desk.host.environment |= words

    said = await desk.host.run()

    assert said.out.startswith("usr_")
