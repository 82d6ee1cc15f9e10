"""Every command in every form of output, against a real API on a real Postgres, and its refusals."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import datetime as dt
import itertools
import json
import os
import pty
import re
import secrets
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from dispatcher.cli.main import app
from dispatcher.ledger.keys import KeyLedger
from dispatcher.model.access import Scope
from dispatcher.model.ids import show_event_id
from tests.rooms.test_api_harness import Api, Seeds, api, ledger_template, ledger_url, pool, shared_api, vault
from tests.support.servers import KafkaServer, fresh_topic
from tests.support.terminal import Said, Terminal
from tests.unit.cli.test_tree import leaves

FORMS = ("table", "json", "jsonl")


@dataclass
class Shop:
    """An account with an endpoint, a delivery, an event, a dead event; and a terminal that reaches all of it."""

    api: Api
    terminal: Terminal
    folder: Path
    endpoint: str
    delivery: str
    event: str
    account: str
    key_id: str
    dead_event: str
    ended: str
    replay: str
    user: str

    def fill(self, words: str) -> list[str]:
        """Return the words of a command with the shop's ids in them."""
        return [word.format(**vars(self)) for word in words.split()]


@pytest.fixture
async def shop(api: Api, tmp_path: Path) -> Shop:
    made = (await api.create()).body
    ring = tmp_path / "ring.json"
    dead_event = f"topic-{secrets.token_hex(4)}/0/7"
    async with api.sql() as sql:
        seeds = Seeds(sql, api.tenant)
        # What was to be tried at once in other tests is late by now, and `doctor` looks at all accounts.
        await sql.execute("DELETE FROM delivery")
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", made["id"])
        event = await seeds.event()
        delivery = await seeds.delivery(number, attempts=1, event_id=event)
        await seeds.attempt(number, delivery, "retry", status=503, event_id=event)
        past = await seeds.event()
        ended = await seeds.ended(number, "exhausted")
        await sql.execute("UPDATE attempt SET event_id = $1 WHERE delivery_id = $2", past, ended)
        account = await sql.fetchval("SELECT public_id FROM account WHERE account_id = $1", api.tenant.account_id)
        await sql.execute(
            "INSERT INTO dead_event (log_id, topic, part, off, reason, detail, key, headers)"
            " VALUES ('log', $1, 0, 7, 'not_json', 'at byte 3', 'k', '[[\"ce_id\",\"MQ==\"]]')",
            dead_event.split("/", maxsplit=1)[0],
        )
        await sql.execute(
            "INSERT INTO replica (pod, lease_until) SELECT 'test', now() + interval '1 hour'"
            " WHERE NOT EXISTS (SELECT FROM replica)"
        )
    ring.write_text(api.vault._path.read_text())
    ring.chmod(0o600)
    key = await KeyLedger(api.pool).create(api.tenant)
    other = (await api.create()).body["id"]
    wish = {"since": "2026-01-01T00:00:00Z", "what": "all"}
    job = await api.call("POST", f"/v1/webhook_endpoints/{other}/replay", wish)
    invited = await api.call("POST", "/v1/users", {"email": "ada@example.com", "role": "developer"})
    terminal = Terminal(
        {
            "DISPATCHER_API_URL": api.url,
            "DISPATCHER_API_KEY": api.key,
            "DISPATCHER_DATABASE__URL": api.database,
            "DISPATCHER_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
            "DISPATCHER_SECRETS__KEY_FILE": str(ring),
            "DISPATCHER_DATA_DIR": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
        }
    )
    return Shop(
        api,
        terminal,
        tmp_path,
        made["id"],
        api.services.delivery_ids.show(delivery),
        show_event_id(event),
        account,
        key.key_id,
        dead_event,
        api.services.delivery_ids.show(ended),
        job.body["id"],
        invited.body["id"],
    )


READING = {
    "version": "version",
    "config check": "config check",
    "migrate": "migrate --check",
    "accounts list": "accounts list",
    "keys list": "keys list --account {account}",
    "users list": "users list",
    "endpoints list": "endpoints list",
    "endpoints show": "endpoints show {endpoint}",
    "deliveries list": "deliveries list --endpoint {endpoint} --status retrying,held",
    "deliveries show": "deliveries show {delivery}",
    "attempts list": "attempts list --endpoint {endpoint} --outcome 5xx --since 1d",
    "attempts show": "attempts show {delivery} 1",
    "replays list": "replays list",
    "replays show": "replays show {replay}",
    "events list": "events list",
    "events show": "events show {event}",
    "hosts list": "hosts list",
    "hosts show": "hosts show https://example.com:443",
    "dead-events list": "dead-events list",
    "dead-events show": "dead-events show {dead_event} --value",
    "doctor": "doctor settings database api egress --resolve localhost",
}
CHANGING = {
    "accounts create": "accounts create --name mine",
    "keys create": "keys create --account {account} --scope endpoints:read --expires-in 90d",
    "keys revoke": "keys revoke {key_id} --account {account} --yes",
    "users invite": "users invite Bob@example.com --role viewer --expires-in 12h",
    "users renew": "users renew {user}",
    "users remove": "users remove ada@example.com --yes",
    "endpoints add": "endpoints add https://example.com/more -e verification.* --header X-Team:identity",
    "endpoints update": "endpoints update {endpoint} --url https://example.com/new -e * --rate-limit 5",
    "endpoints test": "endpoints test {endpoint} --type verification.expired --dry-run",
    "endpoints rotate-secret": "endpoints rotate-secret {endpoint} --overlap 0s --yes",
    "endpoints pause": "endpoints pause {endpoint}",
    "endpoints resume": "endpoints resume {endpoint}",
    "endpoints disable": "endpoints disable {endpoint}",
    "endpoints enable": "endpoints enable {endpoint} --skip-held --yes",
    "deliveries resend": "deliveries resend {ended}",
    "deliveries retry": "deliveries retry {delivery}",
    "deliveries cancel": "deliveries cancel {delivery} --yes",
    "deliveries replay": "deliveries replay --endpoint {endpoint} --since 1h --what all --no-follow --yes",
    "replays cancel": "replays cancel {replay} --yes",
    "endpoints delete": "endpoints delete {endpoint} --yes",
    "hosts set": "hosts set https://example.com:443 --rate 10 --burst 20",
    "dead-events discard": "dead-events discard {dead_event} --yes",
    "config make-key-ring": "config make-key-ring {folder}/new-ring.json",
}
BELOW = {
    "login": "test_a_key_is_kept_tried_and_used",
    "profile add": "test_a_key_is_kept_tried_and_used",
    "profile list": "test_a_key_is_kept_tried_and_used",
    "profile use": "test_a_key_is_kept_tried_and_used",
    "profile remove": "test_a_key_is_kept_tried_and_used",
    "users accept": "test_cli_users",
    "events tail": "test_attempts_are_followed_and_a_cut_loses_none",
    "trigger": "test_events_are_published_and_named",
    "dead-events redrive": "test_a_dead_event_is_published_again",
    "listen": "test_listening",
    "run": "test_embedded",
    "bench": "test_cli",
    "receive": "test_trial_receiver",
    "verify": "test_verify",
    "config table": "test_generated",
    "openapi": "test_openapi",
}
"""Commands that have tests of their own, and where."""


def test_no_command_is_left_out() -> None:
    assert {" ".join(path) for path, _ in leaves(app)} == READING.keys() | CHANGING.keys() | BELOW.keys()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("words", READING.values(), ids=READING.keys())
async def test_what_reads_prints_in_every_form(shop: Shop, words: str, form: str) -> None:
    said = await shop.terminal.run(*shop.fill(words), "-o", form)

    hold_against(said, form, words)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("words", CHANGING.values(), ids=CHANGING.keys())
async def test_what_changes_tells_so_in_every_form(shop: Shop, words: str, form: str) -> None:
    said = await shop.terminal.run(*shop.fill(words), "-o", form)

    hold_against(said, form, words)


def hold_against(said: Said, form: str, words: str) -> None:
    if form == "table":
        assert said.out or said.err
        assert "\x1b" not in said.out + said.err
    elif form == "json":
        assert isinstance(said.json, list | dict), words
    elif "migrate" not in words:
        assert said.lines
        assert all(isinstance(one, dict) for one in said.lines)


DESTRUCTIVE = (
    "keys revoke",
    "users remove",
    "endpoints delete",
    "endpoints rotate-secret",
    "endpoints enable",
    "deliveries cancel",
    "deliveries replay",
    "replays cancel",
    "dead-events discard",
)


@pytest.mark.parametrize("name", DESTRUCTIVE)
async def test_what_destroys_asks_and_refuses_where_nobody_can_answer(shop: Shop, name: str) -> None:
    words = [word for word in shop.fill(CHANGING[name]) if word != "--yes"]

    said = await shop.terminal.run(*words, code=2)
    await shop.terminal.run(*words, "--yes")

    assert "--yes" in said.err


async def test_who_moves_an_endpoint_with_headers_is_told_to_give_them_again(shop: Shop) -> None:
    made = await shop.api.create(headers={"X-Token": "hush-hush-value"})
    update = ("endpoints", "update", made.body["id"], "--url", "https://example.org/")

    refused = await shop.terminal.run(*update, code=1)
    moved = await shop.terminal.run(*update, "--header", "", "-o", "json")

    assert "(422, header_value_needed)" in refused.err
    assert "  /headers/X-Token: " in refused.err
    assert "--header 'Name: value'" in refused.err
    assert (moved.json["url"], "headers" in moved.json) == ("https://example.org/", False)


async def test_a_test_without_the_scope_for_payloads_says_so_in_place_of_its_bodies(shop: Shop) -> None:
    scopes = [Scope.ENDPOINTS_READ, Scope.ENDPOINTS_WRITE]
    shop.terminal.environment["DISPATCHER_API_KEY"] = await shop.api.new_key(shop.api.tenant, scopes)

    said = await shop.terminal.run("endpoints", "test", shop.endpoint)

    assert said.out.count("(a body needs a key with the scope payloads:read)") == 2
    assert "verification" not in said.out.partition("(a body")[2]


async def test_lists_are_paged_and_say_when_there_is_more(shop: Shop) -> None:
    async with shop.api.sql() as sql:
        seeds = Seeds(sql, shop.api.tenant)
        for _ in range(7):
            await seeds.event("verification.created")

    few = await shop.terminal.run("events", "list", "--type", "verification.created", "--limit", "3")
    every = await shop.terminal.run("events", "list", "--type", "verification.created", "--all", "-o", "jsonl")
    some = await shop.terminal.run("events", "list", "-n", "5", "-o", "json")
    exact = await shop.terminal.run("events", "list", "--type", "verification.created", "-n", "7")

    assert len(few.out.splitlines()) == 4
    assert "--all" in few.err
    assert len({one["id"] for one in every.lines}) == 7
    assert len(some.json) == 5
    assert exact.err == ""


async def test_a_list_of_deliveries_says_when_there_is_more_and_when_not(shop: Shop) -> None:
    there = (await shop.terminal.run("deliveries", "list", "--all", "-o", "json")).json

    few = await shop.terminal.run("deliveries", "list", "--limit", str(len(there) - 1))
    exact = await shop.terminal.run("deliveries", "list", "--limit", str(len(there)))

    assert len(few.out.splitlines()) == len(there)
    assert "--limit or --all shows more" in few.err
    assert exact.err == ""


async def test_database_lists_are_paged_too(shop: Shop) -> None:
    for n in range(3):
        await shop.terminal.run("accounts", "create", "--name", f"n{n}")

    few = await shop.terminal.run("accounts", "list", "--limit", "2")
    every = await shop.terminal.run("accounts", "list", "--all", "-o", "json")

    assert len(few.out.splitlines()) == 3
    assert "--all" in few.err
    assert {"n0", "n1", "n2"} <= {one["name"] for one in every.json}


async def test_an_operators_key_leads_through_the_api_which_writes_it_down(shop: Shop) -> None:
    key = await KeyLedger(shop.api.pool).create(None)
    shop.terminal.environment["DISPATCHER_API_KEY"] = key.text
    create = ("accounts", "create", "--name")

    written = (await shop.terminal.run(*create, "written", "-o", "json")).json
    silent = (await shop.terminal.run(*create, "silent", "--database", "-o", "json")).json
    made = (await shop.terminal.run("keys", "create", "--account", written["id"], "--env", "live", "-o", "json")).json

    async with shop.api.sql() as sql:
        noted = await sql.fetch("SELECT thing FROM audit_log WHERE actor = $1", key.key_id)
    assert {row["thing"] for row in noted} == {written["id"], made["id"]}
    assert written.keys() == silent.keys()
    assert made["key"].startswith("whd_live_")
    listed = (await shop.terminal.run("accounts", "list", "--all", "-o", "json")).json
    assert {written["id"], silent["id"]} <= {one["id"] for one in listed}
    others = (await shop.terminal.run("keys", "list", "--account", written["id"], "-o", "json")).json
    assert [one["id"] for one in others] == [made["id"]]


async def test_hosts_are_the_same_through_the_api_and_from_the_database(shop: Shop) -> None:
    host = "https://example.com:443"
    shop.terminal.environment["DISPATCHER_API_KEY"] = (await KeyLedger(shop.api.pool).create(None)).text

    for words in (
        ("list",),
        ("show", host),
        ("set", host, "--rate", "10", "--burst", "20"),
        ("set", host, "--in-flight", "7"),
        ("set", host, "--defaults"),
    ):
        through_api = (await shop.terminal.run("hosts", *words, "-o", "json")).json
        direct = (await shop.terminal.run("hosts", *words, "--database", "-o", "json")).json
        assert through_api == direct

    refused = await shop.terminal.run("hosts", "set", host, "--rate", "1000", "--burst", "2", code=1)
    unknown = await shop.terminal.run("hosts", "show", "https://nobody.example:443", code=1)
    assert "/burst: " in refused.err
    assert "404" in unknown.err


@pytest.mark.parametrize("way", [(), ("--database",)], ids=["through the API", "in the database"])
async def test_a_hosts_pause_is_ended_by_either_way(shop: Shop, way: Sequence[str]) -> None:
    host = "https://example.com:443"
    shop.terminal.environment["DISPATCHER_API_KEY"] = (await KeyLedger(shop.api.pool).create(None)).text
    async with shop.api.sql() as sql:
        await sql.execute("UPDATE host SET paused_until = now() + interval '1 hour' WHERE authority = $1", host)

    paused = (await shop.terminal.run("hosts", "show", host, *way, "-o", "json")).json
    resumed = (await shop.terminal.run("hosts", "set", host, "--in-flight", "7", "--resume", *way, "-o", "json")).json

    assert paused["paused_seconds"] > 3_000
    assert (resumed["paused_seconds"], resumed["in_flight"]) == (0, 7)


async def test_a_key_given_on_the_command_line_is_the_one_that_is_used(shop: Shop) -> None:
    said = await shop.terminal.run(
        "accounts", "list", "--api-key", shop.terminal.environment["DISPATCHER_API_KEY"], code=1
    )

    assert "needs_operator_key" in said.err
    assert "keys create --operator" in said.err


async def test_without_database_and_operators_key_both_are_named(shop: Shop) -> None:
    del shop.terminal.environment["DISPATCHER_DATABASE__URL"]

    said = await shop.terminal.run("accounts", "list", code=1)

    assert "whd_op_" in said.err
    assert "DISPATCHER_DATABASE__URL" in said.err


async def test_migrations_are_those_of_the_embedded_database_where_none_is_configured(shop: Shop) -> None:
    url = shop.terminal.environment.pop("DISPATCHER_DATABASE__URL")

    nowhere = await shop.terminal.run("migrate", "--check", code=1)
    (shop.folder / "ready.json").write_text(json.dumps({"database_url": url}))
    (shop.folder / "ready.json").chmod(0o600)
    embedded = await shop.terminal.run("migrate", "--check")

    assert "DISPATCHER_DATABASE__URL" in nowhere.err
    assert "up to date" in embedded.err


async def test_an_account_manages_keys_of_its_own_without_the_database(shop: Shop) -> None:
    del shop.terminal.environment["DISPATCHER_DATABASE__URL"]

    made = (await shop.terminal.run("keys", "create", "--name", "mine", "--scope", "events:read", "-o", "json")).json
    before = (await shop.terminal.run("keys", "list", "-o", "json")).json
    await shop.terminal.run("keys", "revoke", made["id"], "--yes")
    after = (await shop.terminal.run("keys", "list", "-o", "json")).json

    assert made["scopes"] == ["events:read"]
    assert [one["revoked_at"] for one in before if one["id"] == made["id"]] == [None]
    assert [one["revoked_at"] for one in after if one["id"] == made["id"]] != [None]


async def test_a_key_made_in_the_database_looks_like_one_that_the_api_made(shop: Shop) -> None:
    own = (await shop.terminal.run("keys", "create", "-o", "json")).json
    direct = (await shop.terminal.run("keys", "create", "--account", shop.account, "-o", "json")).json
    operators = (await shop.terminal.run("keys", "create", "--operator", "-o", "json")).json
    listed = [(await shop.terminal.run("keys", "list", *words, "-o", "json")).json for words in ((), ("--operator",))]

    assert own.keys() == direct.keys() == operators.keys()
    assert listed[0][0].keys() == listed[1][0].keys()
    await shop.terminal.run("keys", "revoke", operators["id"], "--account", shop.account, "--yes", code=1)
    await shop.terminal.run("keys", "revoke", operators["id"], "--operator", "--yes")


async def test_a_key_made_to_end_ends_whichever_way_it_was_made(shop: Shop) -> None:
    for words in ((), ("--account", shop.account), ("--operator",)):
        made = (await shop.terminal.run("keys", "create", *words, "--expires-in", "2h", "-o", "json")).json

        created, expires = (dt.datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
        assert abs(expires - created - dt.timedelta(hours=2)) < dt.timedelta(seconds=1)


async def test_ending_a_replay_that_was_done_says_so(shop: Shop) -> None:
    async with shop.api.sql() as sql:
        await sql.execute("UPDATE replay SET state = 'done', ended_at = now() WHERE public_id = $1", shop.replay)

    said = await shop.terminal.run("replays", "cancel", shop.replay, "--yes")

    assert "was done before" in said.err


async def test_times_are_relative_for_people_and_iso_for_programs(shop: Shop) -> None:
    people = await shop.terminal.run("deliveries", "list", "--endpoint", shop.endpoint)
    programs = await shop.terminal.run("deliveries", "list", "--endpoint", shop.endpoint, "-o", "json")

    assert re.search(r"in \d+ min", people.out)
    assert re.search(r"1 min ago", people.out)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", programs.json[0]["created_at"])


async def test_an_endpoint_is_shown_with_what_it_met_to_a_key_that_may_read_deliveries(shop: Shop) -> None:
    async with shop.api.sql() as sql:
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", shop.endpoint)
        hour = await sql.fetchval("SELECT date_trunc('hour', now(), 'UTC') - interval '1 hour'")
        await sql.execute("INSERT INTO endpoint_hour VALUES ($1, $2, 4, 3)", number, hour)
        await sql.execute("INSERT INTO counted_hour VALUES ($1, now())", hour)
    narrow = await shop.api.new_key(shop.api.tenant, [Scope.ENDPOINTS_READ])

    people = await shop.terminal.run("endpoints", "show", shop.endpoint)
    programs = await shop.terminal.run("endpoints", "show", shop.endpoint, "-o", "json")
    shop.terminal.environment["DISPATCHER_API_KEY"] = narrow
    alone = await shop.terminal.run("endpoints", "show", shop.endpoint, "-o", "json")

    assert re.search(r"stats\.success_rate_7d +0\.75\n", people.out)
    assert re.search(rf"stats\.hours +{'·' * 23}▆\n", people.out)
    assert (programs.json["stats"]["attempts_7d"], len(programs.json["stats"]["hours"])) == (4, 24)
    assert "stats" not in alone.json
    assert alone.json["id"] == shop.endpoint


async def test_what_people_wrote_cannot_move_the_cursor(shop: Shop) -> None:
    await shop.api.create(description="\x1b[2J\x1b]0;gotcha\x07 ok")

    listed = await shop.terminal.run("endpoints", "list")
    newest = (await shop.terminal.run("endpoints", "list", "-o", "json")).json[0]
    shown = await shop.terminal.run("endpoints", "show", newest["id"])

    assert "\x1b" not in listed.out + shown.out
    assert "\\x1b[2J" in listed.out
    assert newest["description"] == "\x1b[2J\x1b]0;gotcha\x07 ok"


@pytest.mark.parametrize(
    ("words", "code", "parts"),
    [
        ("endpoints show we_nobody", 1, ("404", "--api-key")),
        ("endpoints show a/b?x", 1, ("404", "Nothing of that id")),
        ("endpoints add https://\udcff.com -e *", 1, ("cannot be written as JSON",)),
        (
            "trigger verification.completed --account acct_0123456789 --set data.a=" + "[" * 300 + "]" * 300,
            2,
            ("--set",),
        ),
        ("deliveries list --endpoint ..", 2, ("no id",)),
        ("attempts list --endpoint we_1/../../webhook_endpoints/x?y=", 1, ("404", "Nothing of that id")),
        ("deliveries cancel dlv_1/../../deliveries/dlv_2 --yes", 1, ("404", "Nothing of that id")),
        (
            "endpoints add http://example.com -e verification.complete",
            1,
            ("/url: ", "/events/0: ", "verification.completed"),
        ),
        ("endpoints add https://example.com -e * --header nonsense", 2, ("Name: value",)),
        ("deliveries list --endpoint we_1 --status lost", 1, ("status: ", "400")),
        ("deliveries list --type verification.complete", 1, ("type: ",)),
        ("deliveries list --since yesterday", 2, ("--since", "6h")),
        ("endpoints rotate-secret we_1 --overlap 0.5s", 2, ("--overlap", "whole seconds")),
        ("deliveries list --until 99999999999d", 2, ("--until",)),
        ("attempts list", 2, ("--endpoint",)),
        ("attempts list --endpoint we_1 --outcome lost", 1, ("outcome: ", "no_answer")),
        ("attempts show dlv_nobody 1", 1, ("404",)),
        ("attempts show dlv_nobody first", 2, ("N",)),
        ("keys create --expires-in 90", 2, ("--expires-in", "90d")),
        ("keys create --operator --expires-in 59s", 2, ("--expires-in", "1m")),
        ("events list --limit 0", 2, ("--limit",)),
        ("endpoints lst", 2, ("Did you mean 'list'",)),
        ("endpoint list", 2, ("Did you mean 'endpoints'",)),
        ("keys create --operator --account acct_0123456789", 2, ("--operator",)),
        ("keys create --operator --api-key whd_op_x", 2, ("database alone",)),
        ("keys create --account acct_0123456789", 1, ("accounts create --id",)),
        ("keys create --database", 2, ("--account",)),
        ("keys create --scope nonsense", 1, ("/scopes/0: ",)),
        ("keys create --scope nonsense --operator", 2, ("deliveries:read",)),
        ("keys list --operator --profile x", 2, ("database alone",)),
        ("keys revoke nobody --yes", 1, ("404",)),
        ("keys revoke nobody --operator --yes", 1, ("keys list --operator",)),
        ("accounts list --database --api-key whd_op_x", 2, ("--database", "--api-key")),
        ("accounts create --id nonsense", 2, ("acct_",)),
        ("hosts show https://nobody.example:443", 1, ("hosts list",)),
        ("dead-events show nonsense", 2, ("named like",)),
        ("dead-events show topic/0/99999999999999999999", 2, ("named like",)),
        ("dead-events show topic/0/1", 1, ("dead-events list",)),
        ("profile use nobody", 1, ("no profile nobody", "dispatcher login")),
        ("events tail --endpoint we_nobody", 1, ("no endpoint we_nobody", "endpoints list")),
        ("events tail --endpoint " + "x" * 65, 1, ("no endpoint", "endpoints list")),
        ("events tail --type " + "x" * 129, 1, ("type: ",)),
        ("listen --forward-to http://localhost:1/ --since yesterday", 2, ("--since", "6h")),
        ("listen --forward-to http://localhost:1/ --since 1h --replay-last 1", 2, ("--replay-last",)),
        ("listen", 2, ("--forward-to", "--exec")),
        ("listen --forward-to http://localhost:1/ --exec true", 2, ("one of them",)),
        ("listen --forward-to ftp://x", 2, ("http://localhost:3000/webhooks",)),
        ("listen --forward-to http://192.0.2.1/", 2, ("--allow-remote",)),
        ("listen --forward-to http://localhost:1/ --secret nonsense", 2, ("whsec_",)),
        ("listen --forward-to http://localhost:1/ --live", 1, ("--env live is asked for",)),
        ("doctor nonsense", 2, ("settings",)),
        ("trigger verification.completed --outcome nope --no-follow --account acct_0123456789", 2, ("--outcome",)),
        ("doctor egress --resolve localhost --url http://10.0.0.1/x", 3, ("fail", "reach")),
        ("--nonsense", 2, ("--nonsense",)),
    ],
)
async def test_a_mistake_is_answered_with_what_to_do(shop: Shop, words: str, code: int, parts: Sequence[str]) -> None:
    said = await shop.terminal.run(*words.split(), code=code)

    for part in parts:
        assert part in said.out + said.err
    assert "Traceback" not in said.err


async def test_live_events_are_asked_about_first(shop: Shop) -> None:
    live = shop.api.tenant._replace(environment="live")
    shop.terminal.environment["DISPATCHER_API_KEY"] = await shop.api.new_key(live)

    said = await shop.terminal.run("listen", "--forward-to", "http://localhost:1/", "--live", code=2)

    assert "real people" in said.err


async def test_a_key_that_may_not_is_told_which_scope_it_lacks(shop: Shop) -> None:
    shop.terminal.environment["DISPATCHER_API_KEY"] = await shop.api.new_key(shop.api.tenant, [Scope.EVENTS_READ])

    said = await shop.terminal.run("endpoints", "list", code=1)

    assert "endpoints:read" in said.err
    assert "--scope" in said.err


async def test_a_key_is_kept_tried_and_used(shop: Shop) -> None:
    del shop.terminal.environment["DISPATCHER_API_URL"]
    key = shop.terminal.environment.pop("DISPATCHER_API_KEY")
    narrow = await shop.api.new_key(shop.api.tenant, [Scope.ENDPOINTS_READ])

    refused = await shop.terminal.run("login", "--api-url", shop.api.url, typed="whd_test_wrong\n", code=1)
    assert "what you typed" in refused.err
    await shop.terminal.run("login", "--api-url", shop.api.url, "--name", "b a d", typed=key, code=2)
    await shop.terminal.run("login", typed=key, code=2)
    for form in FORMS:
        await shop.terminal.run("login", "--api-url", shop.api.url, "--name", "wide", "-o", form, typed=f"{key}\n")
    await shop.terminal.run("profile", "add", "narrow", "--api-url", shop.api.url, typed=narrow)

    listed = {form: await shop.terminal.run("profile", "list", "-o", form) for form in FORMS}
    assert [(one["name"], one["in_use"]) for one in listed["json"].json] == [("narrow", True), ("wide", False)]
    assert listed["jsonl"].lines == listed["json"].json
    assert key not in "".join(said.out for said in listed.values())
    await shop.terminal.run("events", "list", code=1)
    await shop.terminal.run("events", "list", "--profile", "wide")
    for form in FORMS:
        await shop.terminal.run("profile", "use", "wide", "-o", form)
    assert shop.endpoint in (await shop.terminal.run("endpoints", "list")).out
    await shop.terminal.run("profile", "remove", "wide", code=2)
    for form in FORMS:
        await shop.terminal.run("profile", "remove", "wide", "--yes", "-o", form, code=0 if form == "table" else 1)
    said = await shop.terminal.run("endpoints", "list", code=1)
    assert "no dispatcher is known" in said.err


@pytest.mark.parametrize("form", FORMS)
async def test_attempts_are_followed_and_a_cut_loses_none(shop: Shop, form: str) -> None:
    tailing = asyncio.create_task(shop.terminal.run("events", "tail", "--limit", "2", "-o", form))
    async with shop.api.sql() as sql:
        seeds = Seeds(sql, shop.api.tenant)
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", shop.endpoint)
        delivery = 1_000
        while not tailing.done():
            delivery += 1
            await seeds.attempt(number, delivery, "retry", status=500)
            await asyncio.wait({tailing}, timeout=0.1)
    said = await tailing

    if form == "table":
        assert [line.split()[1] for line in said.out.splitlines()] == ["verification.completed"] * 2
    else:
        first, second = said.lines
        assert first["endpoint_id"] == second["endpoint_id"] == shop.endpoint
        assert first["delivery_id"] != second["delivery_id"]


async def test_an_endpoint_is_followed_by_a_key_that_may_do_nothing_else(shop: Shop) -> None:
    shop.terminal.environment["DISPATCHER_API_KEY"] = await shop.api.new_key(shop.api.tenant, [Scope.DELIVERIES_READ])
    words = ("events", "tail", "--endpoint", shop.endpoint, "--limit", "1")
    tailing = asyncio.create_task(shop.terminal.run(*words))
    async with shop.api.sql() as sql:
        seeds = Seeds(sql, shop.api.tenant)
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", shop.endpoint)
        for delivery in itertools.count(2_000):
            await seeds.attempt(number, delivery, "retry", status=500)
            if (await asyncio.wait({tailing}, timeout=0.1))[0]:
                break

    assert shop.endpoint in (await tailing).out


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("deed", ["retry", "cancel"])
async def test_one_of_many_that_is_refused_is_named_and_the_others_are_done(shop: Shop, deed: str, form: str) -> None:
    async with shop.api.sql() as sql:
        seeds = Seeds(sql, shop.api.tenant)
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", shop.endpoint)
        last = shop.api.services.delivery_ids.show(await seeds.delivery(number))
    yes = ["--yes"] if deed == "cancel" else []

    words = ("deliveries", deed, shop.delivery, shop.ended, "dlv_nobody", last, "dlv_none", shop.delivery, *yes)
    said = await shop.terminal.run(*words, "-o", form, code=1)

    found = re.findall(r"dlv_\w+", said.out)
    assert found == [shop.delivery, last]
    assert f"{shop.ended}: The delivery is finished (409" in said.err
    assert "dlv_nobody, dlv_none: There is no such thing here (404" in said.err
    assert ("nothing left to cancel" in said.err) == (deed == "cancel")


async def test_what_was_done_is_told_though_the_api_refuses_the_rest(shop: Shop) -> None:
    shop.terminal.environment["DISPATCHER_API_KEY"] = await shop.api.new_key(shop.api.tenant)
    async with shop.api.sql() as sql:
        seeds = Seeds(sql, shop.api.tenant)
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", shop.endpoint)
        fresh = [shop.api.services.delivery_ids.show(await seeds.delivery(number)) for _ in range(45)]

    said = await shop.terminal.run("deliveries", "retry", *fresh, "-o", "jsonl")
    refused = await shop.terminal.run("deliveries", "retry", shop.delivery, "..", "-o", "jsonl", code=2)

    assert [one["id"] for one in said.lines] == fresh
    assert [one["id"] for one in refused.lines] == [shop.delivery]


async def test_canceling_what_is_being_sent_says_when_it_is_canceled(shop: Shop) -> None:
    async with shop.api.sql() as sql:
        seeds = Seeds(sql, shop.api.tenant)
        number = await sql.fetchval("SELECT endpoint_id FROM endpoint WHERE public_id = $1", shop.endpoint)
        replica = await sql.fetchval("SELECT replica_id FROM replica LIMIT 1")
        sent = shop.api.services.delivery_ids.show(await seeds.delivery(number, owner=replica))

    said = await shop.terminal.run("deliveries", "cancel", sent, shop.delivery, "--yes")

    assert f"{sent} is being sent right now" in said.err
    assert shop.delivery not in said.err


@pytest.mark.parametrize("form", FORMS)
async def test_events_are_published_and_named(shop: Shop, kafka_server: KafkaServer, form: str) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    shop.terminal.environment |= {
        "DISPATCHER_KAFKA__BOOTSTRAP_SERVERS": kafka_server.bootstrap,
        "DISPATCHER_KAFKA__TOPICS": topic,
    }

    words = ("trigger", "verification.completed", "--account", shop.account, "--count", "3", "--no-follow")
    said = await shop.terminal.run(*words, "-o", form)
    seen = await shop.terminal.run("doctor", "kafka", "-o", "json")

    assert said.err.count("published verification.completed evt_") == 3
    if form != "table":
        rows = said.json if form == "json" else said.lines
        assert all(one["event_id"] in said.err for one in rows)
    lag = next(one for one in seen.json if one["check"] == "lag")
    assert lag["detail"] == "3 records to be read"


async def test_a_dead_event_is_published_again(shop: Shop, kafka_server: KafkaServer) -> None:
    shop.terminal.environment["DISPATCHER_KAFKA__BOOTSTRAP_SERVERS"] = kafka_server.bootstrap
    await fresh_topic(kafka_server.bootstrap, name=shop.dead_event.split("/")[0])

    said = await shop.terminal.run("dead-events", "redrive", shop.dead_event, "-o", "json")
    again = await shop.terminal.run("dead-events", "redrive", shop.dead_event, code=1)

    assert said.json["id"] == shop.dead_event
    assert "redriven before" in again.err


async def test_dead_events_go_through_the_api_with_an_operators_key(shop: Shop) -> None:
    key = await KeyLedger(shop.api.pool).create(None)
    shop.terminal.environment["DISPATCHER_API_KEY"] = key.text

    for words in (("list", "--all"), ("show", shop.dead_event), ("show", shop.dead_event, "--value")):
        through_api = (await shop.terminal.run("dead-events", *words, "-o", "json")).json
        direct = (await shop.terminal.run("dead-events", *words, "--database", "-o", "json")).json
        assert timeless(through_api) == timeless(direct)
    read = await shop.terminal.run("dead-events", "show", shop.dead_event, "--value")
    redriven = await shop.terminal.run("dead-events", "redrive", shop.dead_event)
    again = await shop.terminal.run("dead-events", "redrive", shop.dead_event, code=1)
    await shop.terminal.run("dead-events", "discard", shop.dead_event, "--yes")
    gone = await shop.terminal.run("dead-events", "show", shop.dead_event, code=1)

    assert "at byte 3" in read.out
    assert re.search(r"as partition 0 offset \d+", redriven.out + redriven.err)
    assert "redriven_before" in again.err
    assert "404" in gone.err
    async with shop.api.sql() as sql:
        noted = await sql.fetch("SELECT action FROM audit_log WHERE actor = $1 ORDER BY audit_id", key.key_id)
    deeds = ["opened", "opened", "redriven", "discarded"]
    assert [row["action"] for row in noted] == [f"dead_event.{deed}" for deed in deeds]


def timeless(found: object) -> object:
    """Return what was found without its instants, which the database tells to the microsecond."""
    if isinstance(found, list):
        return [timeless(one) for one in found]
    assert isinstance(found, dict)
    return {name: value for name, value in found.items() if not name.endswith("_at")}


@pytest.mark.parametrize(
    ("change", "words", "checks"),
    [
        ({"DISPATCHER_DATABASE__URL": "postgresql://127.0.0.1:1/x"}, "database", {"database"}),
        ({"DISPATCHER_API_URL": "http://127.0.0.1:1"}, "api", {"api"}),
        ({"DISPATCHER_API_KEY": "whd_test_wrong"}, "api", {"api"}),
        ({"DISPATCHER_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1"}, "kafka", {"kafka"}),
        ({"DISPATCHER_LIMITS__HOST_RATE": "-1"}, "settings", {"settings"}),
        ({"DISPATCHER_EGRESS__CA_FILE": "/dev/null"}, "settings", {"settings"}),
    ],
    ids=["no database", "no api", "wrong key", "no kafka", "bad setting", "no such file"],
)
async def test_doctor_fails_with_a_cure(shop: Shop, change: dict[str, str], words: str, checks: set[str]) -> None:
    shop.terminal.environment |= change

    said = await shop.terminal.run("doctor", *words.split(), "-o", "json", code=3)

    failing = [one for one in said.json if one["level"] == "fail"]
    assert {one["check"] for one in failing} == checks
    assert all(one["cure"] for one in failing)


async def test_doctor_sees_that_the_key_ring_opens_a_rotated_secret(shop: Shop) -> None:
    # Numbers of secrets and of endpoints part with the first rotation.
    await shop.api.call("POST", f"/v1/webhook_endpoints/{shop.endpoint}/rotate_secret")

    said = await shop.terminal.run("doctor", "database", "-o", "json")

    ring = next(one for one in said.json if one["check"] == "key-ring")
    assert (ring["level"], ring["detail"].endswith("opens what is sealed")) == ("ok", True)


async def test_doctor_sees_a_key_ring_that_is_another(shop: Shop) -> None:
    await shop.terminal.run("config", "make-key-ring", str(shop.folder / "other.json"))
    shop.terminal.environment["DISPATCHER_SECRETS__KEY_FILE"] = str(shop.folder / "other.json")

    said = await shop.terminal.run("doctor", "database", "-o", "json", code=3)

    (failing,) = [one for one in said.json if one["level"] == "fail"]
    assert failing["check"] == "key-ring"


async def test_doctor_sees_a_database_that_came_from_another_cluster(shop: Shop) -> None:
    async with shop.api.sql() as sql:
        await sql.execute("UPDATE installation SET system_identifier = 1")

    said = await shop.terminal.run("doctor", "database", "-o", "json", code=3)
    await shop.terminal.run("migrate")
    mended = await shop.terminal.run("doctor", "database", "-o", "json")

    (failing,) = [one for one in said.json if one["level"] == "fail"]
    assert (failing["check"], failing["cure"]) == ("schema", "`dispatcher migrate`")
    assert {"check": "schema", "level": "ok"}.items() <= next(
        one for one in mended.json if one["check"] == "schema"
    ).items()


async def test_doctor_dials_a_url_as_a_delivery_would(shop: Shop) -> None:
    shop.terminal.environment |= {
        "DISPATCHER_EGRESS__ALLOW_CIDRS": "127.0.0.0/8",
        "DISPATCHER_EGRESS__ALLOW_HTTP": "true",
    }

    words = ("doctor", "egress", "--resolve", "localhost", "--url", f"{shop.api.url}/x", "-o", "json")
    said = await shop.terminal.run(*words)

    levels = {one["check"]: one["level"] for one in said.json}
    assert levels == {"egress-metadata": "ok", "egress-private": "warn", "dns": "ok", "reach": "ok"}


def at_a_terminal(shop: Shop, words: Sequence[str], **environment: str) -> list[str]:
    """Run a command whose output is a terminal of 80 columns, and return the lines."""
    ours, theirs = pty.openpty()
    plain = {name: value for name, value in os.environ.items() if not name.startswith("DISPATCHER_")}
    plain.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "dispatcher", *words],
        env={**plain, "TERM": "xterm", "COLUMNS": "80", **shop.terminal.environment, **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 65_536):
            pieces.append(piece)
    except OSError:
        # The other side is gone.
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0
    return b"".join(pieces).decode().splitlines()


async def test_a_terminal_gets_colours_and_lines_that_fit(shop: Shop) -> None:
    await shop.api.create(url="https://example.com/" + "x" * 200)
    words = ("endpoints", "list")

    coloured = await asyncio.to_thread(at_a_terminal, shop, words)
    plain = await asyncio.to_thread(at_a_terminal, shop, words, NO_COLOR="1")

    assert any("\x1b[32menabled\x1b[0m" in line for line in coloured)
    assert not any("\x1b" in line for line in plain)
    assert all(len(line) <= 80 for line in plain)
    assert any("…" in line for line in plain)


MEMBERS = (
    *("--description", "d", "--header", "X-Team: identity", "--rate-limit", "5", "--schedule", "0s,5s,5m,1h"),
    *("--outcome", "declined", "--outcome", "approved", "--workflow", "wf_kyc", "--metadata", "team=risk = high"),
    *("--api-version", "2026-11-01", "--payload-mode", "thin"),
)
KEPT = {
    "description": "d",
    "headers": {"X-Team": "********"},
    "rate_limit": 5.0,
    "schedule": [0, 5, 300, 3_600],
    "filter": {"outcomes": ["declined", "approved"], "workflows": ["wf_kyc"]},
    "metadata": {"team": "risk = high"},
    "api_version": "2026-11-01",
    "payload_mode": "thin",
}
OPTIONAL = ("description", "headers", "rate_limit", "schedule", "filter", "metadata")


async def test_every_member_of_an_endpoint_can_be_given_changed_and_taken_away(shop: Shop) -> None:
    emptied = [text if text.startswith("--") else "" for text in MEMBERS[: MEMBERS.index("--api-version")]]
    emptied[emptied.index("--rate-limit") + 1] = "0"

    added = await shop.terminal.run("endpoints", "add", "https://example.com/x", "-e", "*", *MEMBERS, "-o", "json")
    bare = await shop.terminal.run("endpoints", "update", added.json["id"], *emptied, "-o", "json")
    changed = await shop.terminal.run("endpoints", "update", added.json["id"], *MEMBERS, "-o", "json")
    alone = await shop.terminal.run("endpoints", "update", added.json["id"], "--outcome", "declined", "-o", "json")

    for said in (added, changed):
        assert {name: said.json[name] for name in KEPT} == KEPT
    assert [name for name in OPTIONAL if bare.json.get(name)] == []
    assert {name: value for name, value in alone.json["filter"].items() if value} == {"outcomes": ["declined"]}


@pytest.mark.parametrize("words", [("--schedule", "0,5"), ("--schedule", "0.5s"), ("--metadata", "team")])
async def test_members_that_have_another_form_are_refused(shop: Shop, words: Sequence[str]) -> None:
    said = await shop.terminal.run("endpoints", "update", shop.endpoint, *words, code=2)

    assert f"'{words[0]}'" in said.err or words[0] in said.err
    assert "must look like" in said.err or "does not look like" in said.err
