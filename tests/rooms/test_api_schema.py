"""The server against its own document: made-up requests, valid and broken, and no answer that is not in it."""
# ruff: noqa: F401, F811 - fixtures are taken in by name

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from dispatcher.api.routes import ROUTES
from dispatcher.api.server import ApiOptions
from dispatcher.api.throttle import Allowance
from dispatcher.ledger.connections import Pool
from dispatcher.model.access import Scope
from dispatcher.model.ids import show_event_id
from dispatcher.vault import Vault
from tests.house.files import ROOT
from tests.rooms.test_api_harness import Api, Seeds, ledger_template, ledger_url, pool, serving, vault

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
)
UNBOUNDED = Allowance(per_second=1e6, burst=1_000_000)
DOCUMENT = ROOT / "schemas" / "openapi.json"
COMMAND = Path(sys.executable).with_name("schemathesis")


async def run(url: str, key: str, document: Path, *, folder: Path, phases: str = "coverage") -> tuple[int, str]:
    """Run schemathesis in a folder of its own and return its exit code and what it printed.

    The same cases every time: they follow from the document alone.
    """
    child = await asyncio.create_subprocess_exec(
        COMMAND,
        *("run", str(document), "--url", url, "--header", f"Authorization: Bearer {key}"),
        *("--checks", ",".join(CHECKS), "--phases", phases, "--max-examples", "3"),
        *("--generation-deterministic", "--suppress-health-check", "all", "--no-color"),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await child.communicate()
    code = child.returncode
    assert code is not None
    return code, printed.decode(errors="replace")


async def real_ids(api: Api) -> dict[str, str]:
    """Make one of everything and return the id to use for each operation that takes one."""
    async with api.sql() as sql:
        seeds = Seeds(sql, api.tenant)
        numbers = [await seeds.endpoint(f"we_000000000000000{n}") for n in range(2)]
        event_id = await seeds.event()
        delivery = await seeds.delivery(numbers[0], event_id=event_id, attempts=1)
        await seeds.attempt(numbers[0], delivery, "retry")
        replay = await seeds.replay(numbers[0])
        account = await sql.fetchval("SELECT public_id FROM account LIMIT 1")
    ids = {
        "webhook_endpoints": "we_0000000000000000",
        "deliveries": api.services.delivery_ids.show(delivery),
        "events": show_event_id(event_id),
        "replays": replay,
        "api_keys": "000000000000",
        "users": "usr_0000000000000000",
        "accounts": account,
    }
    found = {route.operation_id: ids[route.path.split("/")[2]] for route in ROUTES if "{id}" in route.path}
    return {**found, "deleteWebhookEndpoint": "we_0000000000000001"}


def configuration(ids: dict[str, str], operator_key: str) -> str:
    """Return schemathesis' own settings: path parameters name what is there, and operators' calls have their key."""
    rows = [
        f'[[operations]]\ninclude-operation-id = "{route.operation_id}"\n'
        f'headers = {{ Authorization = "Bearer {operator_key}" }}\n'
        for route in ROUTES
        if route.scope is Scope.OPERATOR
    ]
    rows += [
        f'[[operations]]\ninclude-operation-id = "{operation}"\n'
        f'parameters = {{ "path.id" = "{one}", "path.n" = "1" }}\n'
        for operation, one in ids.items()
    ]
    return "\n".join(rows)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("with_real_ids", [pytest.param(False, marks=pytest.mark.sweep), True])
async def test_no_made_up_request_meets_an_answer_that_is_not_documented(
    ledger_url: str, pool: Pool, vault: Vault, tmp_path: Path, with_real_ids: bool
) -> None:
    options = ApiOptions(key_rate=UNBOUNDED, stranger_rate=UNBOUNDED)
    async with serving(ledger_url, pool, vault, options=options) as api:
        if with_real_ids:
            (tmp_path / "schemathesis.toml").write_text(configuration(await real_ids(api), await api.new_key(None)))
        phases = "examples,coverage,fuzzing" if with_real_ids else "examples,fuzzing"
        code, printed = await run(api.url, api.key, DOCUMENT, folder=tmp_path, phases=phases)

    assert code == 0, printed[-20_000:]
    cases = re.search(r"(\d+) generated, (\d+) passed", printed)
    assert cases is not None, printed
    assert int(cases[1]) == int(cases[2]) > 100


async def test_an_answer_that_is_not_documented_would_be_found(
    ledger_url: str, pool: Pool, vault: Vault, tmp_path: Path
) -> None:
    document = json.loads(DOCUMENT.read_bytes())
    operation = document["paths"]["/v1/events/{id}"]
    del operation["get"]["responses"]["404"]
    document["paths"] = {"/v1/events/{id}": operation}
    lying = tmp_path / "lying.json"
    lying.write_text(json.dumps(document))
    async with serving(ledger_url, pool, vault, options=ApiOptions(key_rate=UNBOUNDED)) as api:
        code, printed = await run(api.url, api.key, lying, folder=tmp_path)

    assert code == 1
    assert re.search(r"undocumented.*\b404\b", printed, re.IGNORECASE | re.DOTALL), printed
