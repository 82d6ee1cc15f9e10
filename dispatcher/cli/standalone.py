"""`run --embedded`: the daemon with PostgreSQL and a broker as child processes, a first account, and the demo."""

import asyncio
import os
import secrets
import shutil
import sys
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from dispatcher import __version__
from dispatcher.app import Daemon
from dispatcher.cli.client import ready_file as own_ready_file
from dispatcher.cli.daemon import Course, Places, describe, loop_factory, serve, write_ready_file
from dispatcher.cli.own_files import read_own
from dispatcher.cli.supervisor import supervise
from dispatcher.embedded.demo import run_demo
from dispatcher.embedded.kafka import EmbeddedKafka
from dispatcher.embedded.postgres import EmbeddedPostgres
from dispatcher.intake.admin import make_topics
from dispatcher.intake.consumer import kafka_settings
from dispatcher.intake.producer import Producer
from dispatcher.journal import short_line
from dispatcher.kit import clock
from dispatcher.kit.supervise import spawn
from dispatcher.ledger.accounts import AccountLedger, Tenant
from dispatcher.ledger.connections import Pool
from dispatcher.ledger.keys import KeyLedger
from dispatcher.ledger.migrate import migrate
from dispatcher.model.errors import DispatcherError, Unavailable
from dispatcher.policy.samples import sample_record
from dispatcher.policy.schema_files import load_example, schema_folder
from dispatcher.settings import Settings
from dispatcher.vault import Vault

_PARTITIONS: Final = 8
_WATCH_SECONDS: Final = 0.5
_AGAIN_SECONDS: Final = 2.0


def run_standalone(settings: Settings, course: Course, *, demo: bool) -> int:
    """Start the child servers, run the daemon on them until told to stop, stop the children. Main thread only.

    Returns the exit code.

    The children are bound to the thread that starts them: when it dies, however it dies, they end.
    """
    data = settings.data_dir
    data.mkdir(parents=True, exist_ok=True)
    _say(f"dispatcher {__version__}: starting PostgreSQL and a broker in {data} …", demo)
    with ExitStack() as stack:
        postgres = EmbeddedPostgres.start(data / "postgres", durable=True)
        stack.callback(postgres.stop)
        broker = EmbeddedKafka.start(data / "kafka")
        stack.callback(broker.stop)
        own = own_ready_file()
        stack.callback(own.unlink, missing_ok=True)
        ready = _placed(settings, postgres.url, broker.bootstrap)
        with asyncio.Runner(loop_factory=loop_factory(course.loop)) as runner:
            serving = _serve(ready, course, demo=demo, ready_files=[own, course.ready_file])
            code = runner.run(_while_living(serving, {"PostgreSQL": postgres, "the broker": broker}))
        _say("stopped", demo)
    return code


class _Server(Protocol):
    """A child server."""

    @property
    def log_file(self) -> Path:
        """Return where its words are."""
        ...

    def has_ended(self) -> bool:
        """Tell whether it is gone."""
        ...


async def _while_living(serving: Coroutine[Any, Any, int], servers: Mapping[str, _Server]) -> int:
    """Return what `serving` does. Raises DispatcherError when a server ends before: nobody starts it again."""
    task, watch = spawn(serving, name="serve"), spawn(_first_dead(servers), name="servers")
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        name = watch.result()
        message = f"{name} has ended; what it said last is in {servers[name].log_file}"
        raise DispatcherError(message)
    finally:
        for one in (task, watch):
            one.cancel()
        await asyncio.wait({task, watch})


async def _first_dead(servers: Mapping[str, _Server]) -> str:
    while True:
        for name, server in servers.items():
            if server.has_ended():
                return name
        await asyncio.sleep(_WATCH_SECONDS)


def _placed(settings: Settings, database_url: str, bootstrap: str) -> Settings:
    """Return the settings with the child servers' addresses and the data directory's key ring."""
    key_file = settings.secrets.key_file or settings.data_dir / "key-ring.json"
    if not key_file.exists():
        Vault.create_file(key_file)
    sources = {**settings.sources, "KAFKA__BOOTSTRAP_SERVERS": "embedded", "DATABASE__URL": "embedded"}
    return settings.model_copy(
        update={
            "kafka": settings.kafka.model_copy(update={"bootstrap_servers": bootstrap}),
            "database": settings.database.model_copy(update={"url": database_url, "password_file": None}),
            "secrets": settings.secrets.model_copy(update={"key_file": key_file}),
            "sources": sources,
        }
    )


async def _serve(settings: Settings, course: Course, *, demo: bool, ready_files: list[Path | None]) -> int:
    await migrate(settings.database_url())
    await make_topics(kafka_settings(settings), dict.fromkeys(settings.kafka.topics, _PARTITIONS))
    account, keys = await _first_account(settings)
    playing: list[asyncio.Task[None]] = []

    async def tell(daemons: Sequence[Places]) -> dict[str, Any]:
        facts = describe(settings, course.roles, *daemons, account_id=account, api_keys=keys)
        for path in ready_files:
            await write_ready_file(path, facts)
        if not demo:
            sys.stderr.write(
                f"ready: API {facts['api_url']}, metrics {facts['metrics_url']}, Kafka {facts['kafka_bootstrap']}\n"
            )
        return facts

    async def on_ready(daemon: Daemon) -> None:
        facts = await tell([daemon])
        if demo:
            sys.stdout.write(_block(facts))
            sys.stdout.flush()
            daemon.journal.watchers.append(_print_attempt)
            playing.append(spawn(_play(settings, facts), name="demo"))

    if course.n_processes > 1:
        return await supervise(settings, course, _environment(settings), on_ready=tell, words=("--embedded",))
    try:
        await serve(settings, course, on_ready=on_ready, check_schema=False)
        return 0
    finally:
        for task in playing:
            task.cancel()


def _environment(settings: Settings) -> dict[str, str]:
    """Return what a child process has to know of the servers that this one started."""
    return {
        "DISPATCHER_DATABASE__URL": settings.database.url,
        "DISPATCHER_DATABASE__PASSWORD_FILE": "",
        "DISPATCHER_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "DISPATCHER_SECRETS__KEY_FILE": str(settings.secrets.key_file),
    }


async def _first_account(settings: Settings) -> tuple[str, dict[str, str]]:
    """Return the account and its keys, made at the first start; the clear keys stay in the data directory.

    A death between making and writing leaves an account without its file: the next start makes another one.
    """
    kept = settings.data_dir / "keys.json"
    pool = await Pool.open(settings.database_url(), size=1)
    try:
        if (facts := _kept_keys(kept)) and await AccountLedger(pool).find(facts["account_id"]) is not None:
            return facts["account_id"], facts["api_keys"]
        account = await AccountLedger(pool).create(name="First account")
        keys = {
            environment: (await KeyLedger(pool).create(Tenant(account.account_id, environment), name="first key")).text
            for environment in ("live", "test")
        }
    finally:
        await pool.aclose()
    await write_ready_file(kept, {"account_id": account.public_id, "api_keys": keys})
    return account.public_id, keys


def _kept_keys(file: Path) -> dict[str, Any] | None:
    """Return what the file of the first account holds, None when there is none yet."""
    try:
        facts: dict[str, Any] = orjson.loads(read_own(file))
        if isinstance(facts["account_id"], str) and isinstance(facts["api_keys"], dict):
            return facts
    except FileNotFoundError:
        return None
    except (orjson.JSONDecodeError, LookupError, TypeError):
        pass
    message = f"{file} does not hold the keys of the first account; move it away, and another account is made"
    raise DispatcherError(message)


async def _play(settings: Settings, facts: dict[str, Any]) -> None:
    folder = schema_folder()

    async def publish(producer: Producer, event_type: str) -> None:
        record = sample_record(
            load_example(folder, event_type),
            account=facts["account_id"],
            environment="test",
            token=secrets.token_hex(8),
            now=clock.utcnow(),
        )
        await producer.send(settings.kafka.topics[0], record.value, key=record.key, headers=record.headers)

    while True:
        try:
            async with Producer(kafka_settings(settings)) as producer:
                await run_demo(facts["api_url"], facts["api_keys"]["test"], partial(publish, producer), _tell)
        except Unavailable as fault:
            _tell(f"the demo begins anew: {fault}")
        await asyncio.sleep(_AGAIN_SECONDS)


def _tell(words: str) -> None:
    _say(words, demo=True)


def _print_attempt(delivery: Any, target: Any, settlement: Any) -> None:
    when = clock.utcnow().strftime("%H:%M:%S.%f")[:-3]
    sys.stdout.write(short_line(delivery, target, settlement, when) + "\n")
    sys.stdout.flush()


def _say(text: str, demo: bool) -> None:
    if demo:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def _block(facts: dict[str, Any]) -> str:
    command = _command()
    body = '{"url": "http://127.0.0.1:9000/webhooks", "events": ["verification.*"]}'
    key = facts["api_keys"]["test"]
    return f"""
Ready.

  API         {facts["api_url"]}
  metrics     {facts["metrics_url"]}
  Kafka       {facts["kafka_bootstrap"]}, topic {facts["topics"][0]}
  PostgreSQL  {facts["database_url"]}
  account     {facts["account_id"]} (keys for live and test: {own_ready_file().with_name("keys.json")})

Receive webhooks in a second terminal:
  {command} receive --port 9000

Register it as an endpoint in a third one (the answer shows its signing secret, once):
  curl -sS {facts["api_url"]}/v1/webhook_endpoints \\
    -H 'Authorization: Bearer {key}' \\
    -H 'Content-Type: application/json' \\
    -d '{body}'

Publish an event:
  {command} trigger verification.completed

or with any Kafka producer, as a CloudEvent with the headers ce_specversion, ce_id, ce_source, ce_type, ce_time,
ce_subject, ce_accountid and ce_environment (the README has a sample).

Attempts as they are made: time, type, endpoint, attempt, status, milliseconds. Ctrl-C stops everything.

"""


def _command() -> str:
    """Return how the person can call this program again from where they are."""
    path = Path(sys.argv[0])
    if path.name != "dispatcher" or shutil.which("dispatcher") == str(path.absolute()):
        return "dispatcher"
    return min(str(path), os.path.relpath(path), key=len)
