"""Every setting of the program: one frozen group per room, read once, all faults reported together.

A setting is the environment variable `DISPATCHER_<GROUP>__<NAME>` or the same key in the TOML file named by
`DISPATCHER_CONFIG` (`[group]`, `name = value`); the environment wins. Names that do not exist are refused, but for
those that Kubernetes makes of services called `dispatcher`. The text below each field is what the generated table in
the README says.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Collection, Mapping
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticUndefined

from dispatcher.model.endpoint import HostLimits
from dispatcher.model.errors import ConfigurationError
from dispatcher.policy.pacing import limits_fault
from dispatcher.policy.retrying import LIVE_SCHEDULE, TEST_SCHEDULE
from dispatcher.setting_values import (
    MIB,
    Bind,
    BindField,
    BytesField,
    CidrsField,
    FileField,
    InstantField,
    PlainField,
    PortsField,
    ScheduleField,
    TopicsField,
)

PREFIX: Final = "DISPATCHER_"
CONFIG_VARIABLE: Final = "DISPATCHER_CONFIG"
_OWN_VARIABLES: Final = frozenset({CONFIG_VARIABLE, "DISPATCHER_API_URL", "DISPATCHER_API_KEY", "DISPATCHER_PROFILE"})
# Of a Service `dispatcher` every pod of its namespace gets DISPATCHER_PORT, DISPATCHER_SERVICE_HOST,
# DISPATCHER_PORT_8080_TCP_ADDR and the like; of `dispatcher-api` the same behind DISPATCHER_API.
_SERVICE_LINK: Final = re.compile(
    r"(?!.*__)(?:\w+_)?(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)",
    re.ASCII,
)


class Role(StrEnum):
    """What a process does: read Kafka, send requests, answer the API. Any mixture of them is a process."""

    INGEST = "ingest"
    DELIVER = "deliver"
    API = "api"


EVERY_ROLE: Final = frozenset(Role)


_doc = partial(Field, validate_default=False)


class Group(BaseModel):
    """One group of settings; frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)


class Kafka(Group):
    """Where events come from."""

    bootstrap_servers: str = _doc(
        "", description="Comma list of `host:port`. Required with the role `ingest`, unless embedded."
    )
    topics: TopicsField = _doc(("verification.events.v1",), description="Comma list, or one pattern between slashes.")
    group_id: str = _doc("webhook-dispatcher", min_length=1, description="Consumer group; shared by all replicas.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_SSL", "SASL_PLAINTEXT"] = _doc(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_SSL or SASL_PLAINTEXT."
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = _doc(
        "SCRAM-SHA-512", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512; used with SASL only."
    )
    sasl_username: str | None = _doc(None, description="User name for SASL.")
    sasl_password_file: FileField = _doc(None, description="File that holds the password for SASL.")
    ca_file: FileField = _doc(None, description="CA bundle for TLS; empty trusts the system's.")
    cert_file: FileField = _doc(None, description="Client certificate (PEM), with `KEY_FILE`.")
    key_file: FileField = _doc(None, description="Client key (PEM).")
    start: Literal["earliest", "latest"] = _doc(
        "earliest", description="Where a partition never seen before begins: earliest or latest."
    )
    dead_letter_topic: str | None = _doc(
        None, description="Also copy bad records there; empty: off. The `dead_event` table always has them."
    )
    session_timeout_ms: int = _doc(
        45_000,
        ge=2_000,
        le=300_000,
        description="After this long a silent member's partitions go to others. 2000 in embedded mode.",
    )
    fetch_max_wait_ms: int = _doc(
        500, ge=1, le=10_000, description="How long a broker may hold an empty fetch. 10 in embedded mode."
    )


class Intake(Group):
    """What to do with records."""

    unknown_account: Literal["create", "skip", "dead"] = _doc(
        "create",
        description="Events of accounts not seen before: `create` keeps both, `skip` counts and drops, "
        "`dead` sets them aside.",
    )
    plain_json: PlainField = _doc(
        {},
        description="How to read JSON without CloudEvents attributes: `source=/core, id=meta.id, type=…, time=…, "
        "account=…, environment=…, data=…`, all but `source` dotted paths. Empty: such records are dead events.",
    )


class Database(Group):
    """Where everything is kept."""

    url: str = _doc("", description="`postgresql://…`, PostgreSQL 15 or newer. Required unless embedded.")
    password_file: FileField = _doc(None, description="File that holds the password, instead of one in the URL.")


class Http(Group):
    """The API."""

    bind: BindField = _doc(Bind("127.0.0.1", 8080), description="The API. Port 0: any free one.")
    public_url: str | None = _doc(None, description="As customers reach it; empty: made from `BIND`.")
    product_name: str = _doc(
        "Dispatcher", pattern="^[A-Za-z0-9._-]{1,40}$", description="First word of the User-Agent: `<name>-Webhooks/1`."
    )


class Metrics(Group):
    """The operator's port."""

    bind: BindField = _doc(
        Bind("127.0.0.1", 9464),
        description="`/metrics`, `/healthz`, `/readyz`. Port 0: any free one. `--processes` counts up from it.",
    )


class Secrets(Group):
    """Keys for secrets at rest."""

    key_file: FileField = _doc(
        None,
        description='Key ring: JSON `{"primary": id, "keys": {id: base64 of 32 bytes}}`, mode 0600. '
        "Required unless embedded.",
    )


class Egress(Group):
    """Where requests may go."""

    allow_cidrs: CidrsField = _doc(
        (), description="Private targets to allow; never re-opens metadata addresses. Embedded: loopback."
    )
    deny_cidrs: CidrsField = _doc((), description="Own public ranges to refuse.")
    source_ips: CidrsField = _doc(
        (), description="Where requests come from, for customers' firewalls: told by `GET /v1/webhook_source_ips`."
    )
    source_ips_change_at: InstantField = _doc(
        None, description="When they change next, as `2026-12-01T06:00:00Z`: told there, too, as `changes_at`."
    )
    allow_http: bool = _doc(
        default=False, description="http:// endpoints, in the test environment only. Embedded: true."
    )
    ports: PortsField = _doc(
        "443,8443,1024-65535",
        description="Ports to allow; those of data stores and control planes only when listed one by one.",
    )
    ca_file: FileField = _doc(
        None, description="Private CA bundle for endpoints; empty: the system's. Verification is never off."
    )


class Limits(Group):
    """How much, how fast."""

    host_rate: float = _doc(100.0, gt=0, le=1e6, description="Requests per second to one host, over all replicas.")
    host_burst: int = _doc(100, ge=1, le=1_000_000, description="Requests at once to one host after a rest.")
    host_in_flight: int = _doc(64, ge=1, le=10_000, description="Requests under way to one host.")
    in_flight: int = _doc(1_000, ge=1, le=100_000, description="Requests under way in one process.")
    memory_bytes: BytesField = _doc(
        256 * MIB, ge=MIB, description="Bytes of deliveries, and a quarter of it of results, in one process's memory."
    )

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        fault = limits_fault(self.host_rate, self.host_burst)
        if fault is not None:
            raise ValueError(fault)
        return self

    def host_limits(self) -> HostLimits:
        """Return the limits of a host that has none of its own."""
        return HostLimits(self.host_rate, self.host_burst, self.host_in_flight)


class Retry(Group):
    """When to try again."""

    live: ScheduleField = _doc(LIVE_SCHEDULE, description="Seconds before each attempt in live; each x 0.9 to 1.1.")
    test: ScheduleField = _doc(TEST_SCHEDULE, description="The same for test.")


class Retention(Group):
    """How long things are kept."""

    payload_days: int = _doc(30, ge=1, le=3_650, description="Events with their bodies, days.")
    attempt_days: int = _doc(90, ge=1, le=3_650, description="Attempts, days.")
    response_days: int = _doc(7, ge=1, le=3_650, description="Response bodies, days.")


class Lease(Group):
    """How soon a dead replica is noticed."""

    seconds: float = _doc(15.0, ge=6, le=300, description="A replica silent for this long is taken over.")


class Shutdown(Group):
    """How to stop."""

    drain_seconds: float = _doc(
        20.0, ge=0, le=600, description="Attempts under way may take this long before they are cut."
    )


class Log(Group):
    """What is told."""

    level: Literal["debug", "info", "warning", "error"] = _doc("info", description="debug, info, warning or error.")
    format: Literal["json", "console", "auto"] = _doc(
        "auto", description="json, console, or auto: console on a terminal."
    )
    attempts: Literal["all", "failures", "none"] = _doc(
        "failures", description="One wide line per attempt: all, failures or none. `--demo` shows all."
    )


class Settings(Group):
    """All groups. `sources` tells for each key that was set where from: env, file or embedded.

    `ignored` are variables that bear our prefix and look like Kubernetes' service links.
    """

    kafka: Kafka = Kafka()
    intake: Intake = Intake()
    database: Database = Database()
    http: Http = Http()
    metrics: Metrics = Metrics()
    secrets: Secrets = Secrets()
    egress: Egress = Egress()
    limits: Limits = Limits()
    retry: Retry = Retry()
    retention: Retention = Retention()
    lease: Lease = Lease()
    shutdown: Shutdown = Shutdown()
    log: Log = Log()
    data_dir: Path = _doc(
        Path(".dispatcher"), description="Embedded servers' data, key ring, keys of the first account."
    )
    sources: Mapping[str, str] = Field(default_factory=dict, exclude=True)
    ignored: tuple[str, ...] = Field((), exclude=True)

    def database_url(self) -> str:
        """Return the URL with the password of the password file, when there is one."""
        if self.database.password_file is None:
            return self.database.url
        from urllib.parse import quote, urlsplit  # noqa: PLC0415 - needed here alone

        parts = urlsplit(self.database.url)
        password = quote(self.database.password_file.read_text().strip(), safe="")
        netloc = f"{parts.username or ''}:{password}@{parts.netloc.rpartition('@')[2]}"
        return parts._replace(netloc=netloc).geturl()


_GROUPS: Final = {
    name: field.annotation
    for name, field in Settings.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Group)
}
_EMBEDDED: Final = {
    "EGRESS__ALLOW_CIDRS": "127.0.0.0/8,::1/128",
    "EGRESS__ALLOW_HTTP": "true",
    "KAFKA__FETCH_MAX_WAIT_MS": "10",
}
_REQUIRED: Final = {
    "KAFKA__BOOTSTRAP_SERVERS": "where Kafka is, like kafka-1:9092,kafka-2:9092",
    "DATABASE__URL": "where PostgreSQL is, like postgresql://dispatcher@db:5432/dispatcher",
    "SECRETS__KEY_FILE": "the key ring's file; `dispatcher config make-key-ring FILE` writes one",
}


def known_keys() -> list[str]:
    """Return every key, without the prefix, in the order of the groups."""
    grouped = [f"{name.upper()}__{field.upper()}" for name, group in _GROUPS.items() for field in group.model_fields]
    return [*grouped, "DATA_DIR"]


def load(
    environ: Mapping[str, str],
    *,
    embedded: bool = False,
    required: bool = True,
    roles: Collection[Role] = EVERY_ROLE,
) -> Settings:
    """Read, check and return the settings from a mapping of environment variables (and the file that it names).

    `embedded` fills in what a machine with its own child servers needs, wherever nothing was set; then nothing is
    required. `required` False accepts a configuration without servers; without the role `ingest` Kafka is not needed.

    Raises:
        ConfigurationError: with every fault, one line each.
    """
    faults: list[str] = []
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    in_environment = _from_environ(environ)
    links = sorted(filter(_SERVICE_LINK.fullmatch, in_environment))
    for link in links:
        del in_environment[link]
    layers: list[tuple[str, Mapping[str, object]]] = [
        ("embedded", _EMBEDDED if embedded else {}),
        ("file", _from_file(environ, faults)),
        ("env", in_environment),
    ]
    for source, layer in layers:
        values.update(layer)
        sources.update(dict.fromkeys(layer, source))
    known = known_keys()
    for key in sorted(values.keys() - set(known)):
        near = difflib.get_close_matches(key, known, 1)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        faults.append(f"{PREFIX}{key} is no setting{hint}")
        del values[key]
    if required and not embedded:
        faults += [
            f"{PREFIX}{key} is required: {what}"
            for key, what in _REQUIRED.items()
            if values.get(key) in (None, "") and (Role.INGEST in roles or not key.startswith("KAFKA__"))
        ]
    settings = _build(values, sources, faults)
    faults += _contradictions(settings)
    if faults:
        raise ConfigurationError(faults)
    return settings.model_copy(update={"ignored": tuple(PREFIX + link for link in links)})


def _from_environ(environ: Mapping[str, str]) -> dict[str, object]:
    return {
        name.removeprefix(PREFIX): value
        for name, value in environ.items()
        if name.startswith(PREFIX) and name not in _OWN_VARIABLES and not name.startswith(f"{PREFIX}TEST_")
    }


def _from_file(environ: Mapping[str, str], faults: list[str]) -> dict[str, object]:
    path = environ.get(CONFIG_VARIABLE)
    if not path:
        return {}
    try:
        document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as fault:
        faults.append(f"{CONFIG_VARIABLE}: {path} cannot be read: {fault}")
        return {}
    values: dict[str, object] = {}
    for name, value in document.items():
        if isinstance(value, dict):
            values.update({f"{name.upper()}__{key.upper()}": inner for key, inner in value.items()})
        else:
            values[name.upper()] = value
    return values


def _build(values: Mapping[str, object], sources: dict[str, str], faults: list[str]) -> Settings:
    built: dict[str, Any] = {}
    for name, group in _GROUPS.items():
        prefix = f"{name.upper()}__"
        raw = {key.removeprefix(prefix).lower(): value for key, value in values.items() if key.startswith(prefix)}
        # An empty text means "not set" wherever nothing is a meaning of its own.
        raw = {
            key: None if value == "" and group.model_fields[key].default is None else value
            for key, value in raw.items()
        }
        try:
            built[name] = group(**raw)
        except ValidationError as fault:
            faults += [_explained(prefix, error) for error in fault.errors()]
    if "DATA_DIR" in values:
        built["data_dir"] = Path(str(values["DATA_DIR"]))
    return Settings(**built, sources=sources)


def _explained(prefix: str, error: Any) -> str:
    message = error["msg"].removeprefix("Value error, ")
    given = "" if "PASSWORD" in str(error["loc"]).upper() else f" (given: {error['input']!r})"
    return f"{PREFIX}{prefix}{str(error['loc'][0]).upper()}: {message}{given}"


def _contradictions(settings: Settings) -> list[str]:
    faults = []
    kafka = settings.kafka
    if kafka.security_protocol.startswith("SASL") and not (kafka.sasl_username and kafka.sasl_password_file):
        faults.append(
            f"{PREFIX}KAFKA__SECURITY_PROTOCOL is {kafka.security_protocol}: "
            "KAFKA__SASL_USERNAME and KAFKA__SASL_PASSWORD_FILE are needed"
        )
    if (kafka.cert_file is None) != (kafka.key_file is None):
        faults.append(f"{PREFIX}KAFKA__CERT_FILE and {PREFIX}KAFKA__KEY_FILE go together")
    if settings.database.url and not settings.database.url.startswith(("postgresql://", "postgres://")):
        faults.append(f"{PREFIX}DATABASE__URL begins with postgresql://")
    retention = settings.retention
    if not retention.response_days <= retention.attempt_days >= retention.payload_days:
        # A replay of what is missing could not tell what was delivered.
        faults.append(
            f"{PREFIX}RETENTION__ATTEMPT_DAYS is {retention.attempt_days}: attempts stay at least as long as events "
            f"({retention.payload_days} days) and responses ({retention.response_days} days)"
        )
    return faults


def effective(settings: Settings) -> list[tuple[str, str, str]]:
    """Return (key, value, source) for every setting; values of secret ones masked, source `default` where unset."""
    rows = []
    for key in known_keys():
        group, _, name = key.lower().partition("__")
        value = getattr(getattr(settings, group), name) if name else getattr(settings, group)
        rows.append((PREFIX + key, _shown(key, value), settings.sources.get(key, "default")))
    return rows


def _shown(key: str, value: object) -> str:
    if value is None or value == "":
        return ""
    if key == "DATABASE__URL":
        # The query can hold a password too, and a password any character.
        head, at, tail = str(value).rpartition("@")
        user = head.partition("://")[2].partition(":")[0]
        shown, query, _ = (f"postgresql://{user}:…@{tail}" if at else str(value)).partition("?")
        return f"{shown}?…" if query else shown
    if isinstance(value, Bind):
        return f"{value.host}:{value.port}"
    if isinstance(value, Mapping):
        return ",".join(f"{name}={part}" for name, part in value.items())
    if isinstance(value, tuple):
        return ",".join(f"{part:g}" if isinstance(part, float) else str(part) for part in value)
    return json.dumps(value) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def settings_table() -> str:
    """Return the Markdown table of all settings for the README, generated from the fields."""
    lines = ["| key | default | meaning |", "| --- | --- | --- |"]
    for key in known_keys():
        group, _, name = key.lower().partition("__")
        field = _GROUPS[group].model_fields[name] if name else Settings.model_fields[group]
        default = "" if field.default is PydanticUndefined else _shown(key, field.default)
        lines.append(f"| `{key}` | {f'`{default}`' if default else '–'} | {field.description} |")
    return "\n".join(lines)
