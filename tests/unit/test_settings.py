"""Settings: every fault at once, the right source wins, nothing secret is shown."""

import datetime as dt
from pathlib import Path

import pytest

from dispatcher.model.errors import ConfigurationError
from dispatcher.setting_values import Bind
from dispatcher.settings import effective, known_keys, load, settings_table


@pytest.fixture
def needed(tmp_path: Path) -> dict[str, str]:
    """Return what a configuration cannot do without."""
    key_file = tmp_path / "ring.json"
    key_file.write_text("{}")
    return {
        "DISPATCHER_KAFKA__BOOTSTRAP_SERVERS": "kafka:9092",
        "DISPATCHER_DATABASE__URL": "postgresql://dispatcher:hunter22@db/dispatcher",
        "DISPATCHER_SECRETS__KEY_FILE": str(key_file),
    }


def faults_of(environ: dict[str, str], *, embedded: bool = False) -> str:
    """Return the faults of a configuration as text."""
    with pytest.raises(ConfigurationError) as caught:
        load(environ, embedded=embedded)
    return "\n".join(caught.value.faults)


def test_the_defaults_are_the_published_ones(needed: dict[str, str]) -> None:
    settings = load(needed)

    assert settings.kafka.topics == ("verification.events.v1",)
    assert (settings.kafka.group_id, settings.kafka.start) == ("webhook-dispatcher", "earliest")
    assert (settings.http.bind, settings.metrics.bind) == (Bind("127.0.0.1", 8080), Bind("127.0.0.1", 9464))
    limits = settings.limits
    assert (limits.host_rate, limits.host_burst, limits.host_in_flight) == (100.0, 100, 64)
    assert (limits.in_flight, limits.memory_bytes) == (1_000, 256 * 1_048_576)
    assert (settings.lease.seconds, settings.shutdown.drain_seconds) == (15.0, 20.0)
    assert (settings.egress.allow_cidrs, settings.egress.allow_http) == ((), False)
    assert (settings.intake.unknown_account, settings.log.attempts) == ("create", "failures")
    assert settings.intake.plain_json == {}
    assert str(settings.data_dir) == ".dispatcher"


def test_every_fault_is_told_at_once() -> None:
    told = faults_of(
        {
            "DISPATCHER_HTP__BIND": "x",
            "DISPATCHER_HTTP__BIND": "8080",
            "DISPATCHER_LIMITS__HOST_RATE": "0",
            "DISPATCHER_RETRY__LIVE": "0,-1",
            "DISPATCHER_KAFKA__SECURITY_PROTOCOL": "SASL_SSL",
            "DISPATCHER_EGRESS__ALLOW_CIDRS": "10.0.0.0/99",
            "DISPATCHER_EGRESS__PORTS": "443,x",
            "DISPATCHER_SECRETS__KEY_FILE": "/nowhere",
        }
    )

    for part in (
        "HTP__BIND is no setting; did you mean DISPATCHER_HTTP__BIND?",
        "HTTP__BIND: give host:port",
        "LIMITS__HOST_RATE",
        "RETRY__LIVE",
        "SASL_USERNAME",
        "ALLOW_CIDRS",
        "EGRESS__PORTS",
        "there is no file /nowhere",
        "KAFKA__BOOTSTRAP_SERVERS is required",
        "DATABASE__URL is required",
    ):
        assert part in told, f"{part!r} is missing in:\n{told}"


def test_the_environment_beats_the_file_and_the_file_the_default(needed: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "dispatcher.toml"
    file.write_text('data_dir = "/var/d"\n[limits]\nhost_rate = 7\nhost_burst = 8\n[kafka]\ntopics = ["a", "b"]\n')
    environ = {**needed, "DISPATCHER_CONFIG": str(file), "DISPATCHER_LIMITS__HOST_RATE": "9"}

    settings = load(environ)

    assert (settings.limits.host_rate, settings.limits.host_burst) == (9.0, 8)
    assert (settings.kafka.topics, str(settings.data_dir)) == (("a", "b"), "/var/d")
    sources = {key: source for key, _, source in effective(settings)}
    assert sources["DISPATCHER_LIMITS__HOST_RATE"] == "env"
    assert sources["DISPATCHER_LIMITS__HOST_BURST"] == "file"
    assert sources["DISPATCHER_LIMITS__IN_FLIGHT"] == "default"


@pytest.mark.parametrize("content", ["[limits]\nhost_rat = 1\n", "limits = ", "[nogroup]\nx = 1\n"])
def test_a_faulty_file_is_refused(needed: dict[str, str], tmp_path: Path, content: str) -> None:
    file = tmp_path / "dispatcher.toml"
    file.write_text(content)

    assert faults_of({**needed, "DISPATCHER_CONFIG": str(file)})


def test_embedded_defaults_yield_to_whatever_is_set_even_to_nothing() -> None:
    plain = load({}, embedded=True)
    strict = load({"DISPATCHER_EGRESS__ALLOW_CIDRS": "", "DISPATCHER_EGRESS__ALLOW_HTTP": "false"}, embedded=True)

    assert plain.egress.allow_cidrs == ("127.0.0.0/8", "::1/128")
    assert (plain.egress.allow_http, plain.kafka.fetch_max_wait_ms) == (True, 10)
    assert (strict.egress.allow_cidrs, strict.egress.allow_http) == ((), False)


def test_an_instant_is_kept_in_utc(needed: dict[str, str]) -> None:
    settings = load({**needed, "DISPATCHER_EGRESS__SOURCE_IPS_CHANGE_AT": "2026-12-01T07:00:00+01:00"})

    assert settings.egress.source_ips_change_at == dt.datetime(2026, 12, 1, 6, tzinfo=dt.UTC)


@pytest.mark.parametrize("text", ["2026-12-01T07:00:00", "2026-12-01", "2026-W49-2T07:00:00Z"])
def test_an_instant_of_another_form_is_refused(needed: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigurationError, match="give an instant with its offset"):
        load({**needed, "DISPATCHER_EGRESS__SOURCE_IPS_CHANGE_AT": text})


def test_no_secret_is_shown(needed: dict[str, str], tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter23\n")
    settings = load({**needed, "DISPATCHER_DATABASE__PASSWORD_FILE": str(password)})

    assert "hunter" not in repr(effective(settings))
    assert settings.database_url() == "postgresql://dispatcher:hunter23@db/dispatcher"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://dispatcher:hunter2@db/dispatcher",
        "postgres://dispatcher:hunter2@db/dispatcher",
        "postgresql://dispatcher:hun@ter2@db/dispatcher",
        "postgresql://dispatcher:hunter2?@db/dispatcher",
        "postgresql://dispatcher@db/dispatcher?password=hunter2",
        "postgresql://dispatcher@db/dispatcher?password=hunter2@x",
        "postgresql://db/dispatcher?password=hunter2",
    ],
)
def test_a_password_is_not_shown_wherever_in_the_url_it_stands(needed: dict[str, str], url: str) -> None:
    shown = {key: value for key, value, _ in effective(load({**needed, "DISPATCHER_DATABASE__URL": url}))}

    assert "ter2" not in shown["DISPATCHER_DATABASE__URL"]
    assert shown["DISPATCHER_DATABASE__URL"].startswith("postgresql://")
    assert "db/dispatcher" in shown["DISPATCHER_DATABASE__URL"]


def test_a_password_from_a_file_takes_the_place_of_the_one_in_the_url(needed: dict[str, str], tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("p@ss/w:rd?\n")
    environ = {**needed, "DISPATCHER_DATABASE__PASSWORD_FILE": str(password)}

    for url in ("postgresql://u@[::1]:5432/d?sslmode=require", "postgresql://u:old@[::1]:5432/d?sslmode=require"):
        settings = load({**environ, "DISPATCHER_DATABASE__URL": url})
        assert settings.database_url() == "postgresql://u:p%40ss%2Fw%3Ard%3F@[::1]:5432/d?sslmode=require"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "KAFKA__SASL_USERNAME": "u"}, "SASL_PASSWORD_FILE are needed"),
        ({"KAFKA__SECURITY_PROTOCOL": "sasl"}, "KAFKA__SECURITY_PROTOCOL"),
        ({"KAFKA__CERT_FILE": __file__}, "go together"),
        ({"KAFKA__KEY_FILE": __file__}, "go together"),
        ({"RETENTION__ATTEMPT_DAYS": "29"}, "at least as long as events"),
        ({"RETENTION__RESPONSE_DAYS": "91"}, "at least as long as events"),
        ({"DATABASE__URL": "mysql://db"}, "begins with postgresql://"),
        ({"HTTP__BIND": "localhost"}, "give host:port"),
        ({"EGRESS__SOURCE_IPS_CHANGE_AT": "2026-12-01T06:00:00"}, "an instant with its offset"),
        ({"EGRESS__SOURCE_IPS_CHANGE_AT": "soon"}, "an instant with its offset"),
        ({"HTTP__BIND": "localhost:65536"}, "give host:port"),
        ({"METRICS__BIND": "localhost:-1"}, "give host:port"),
        ({"RETRY__LIVE": ""}, "1 to 24 entries"),
        ({"RETRY__LIVE": "0,five"}, "RETRY__LIVE"),
        ({"RETRY__TEST": "0,90000"}, "longer than a day"),
        ({"RETRY__TEST": "0,nan"}, "0 or more"),
        ({"LIMITS__HOST_RATE": "inf"}, "LIMITS__HOST_RATE"),
        ({"LIMITS__MEMORY_BYTES": "64 MB"}, "give bytes"),
        ({"KAFKA__TOPICS": ","}, "KAFKA__TOPICS"),
        ({"INTAKE__PLAIN_JSON": "id=meta.id, kind=meta.kind"}, "give NAME=PATH for each of source, id, type"),
        ({"INTAKE__PLAIN_JSON": "source=/a,id=,type=t,time=t,account=a,environment=e,data=d"}, "give NAME=PATH"),
        ({"LOG__LEVEL": "loud"}, "LOG__LEVEL"),
        ({"HTTP__PRODUCT_NAME": "two words"}, "HTTP__PRODUCT_NAME"),
        ({"kafka__start": "latest"}, "is no setting"),
        ({"SOURCES__X": "1"}, "is no setting"),
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_refused_in_words(
    needed: dict[str, str], changes: dict[str, str], told: str
) -> None:
    faults = faults_of({**needed, **{f"DISPATCHER_{key}": value for key, value in changes.items()}})

    assert told in faults
    assert len(faults.splitlines()) == 1


PUBLISHED = {
    "KAFKA__BOOTSTRAP_SERVERS": "",
    "KAFKA__TOPICS": "verification.events.v1",
    "KAFKA__GROUP_ID": "webhook-dispatcher",
    "KAFKA__SECURITY_PROTOCOL": "PLAINTEXT",
    "KAFKA__SASL_MECHANISM": "SCRAM-SHA-512",
    "KAFKA__SASL_USERNAME": "",
    "KAFKA__SASL_PASSWORD_FILE": "",
    "KAFKA__CA_FILE": "",
    "KAFKA__START": "earliest",
    "KAFKA__DEAD_LETTER_TOPIC": "",
    "INTAKE__UNKNOWN_ACCOUNT": "create",
    "DATABASE__URL": "",
    "DATABASE__PASSWORD_FILE": "",
    "HTTP__BIND": "127.0.0.1:8080",
    "HTTP__PUBLIC_URL": "",
    "METRICS__BIND": "127.0.0.1:9464",
    "SECRETS__KEY_FILE": "",
    "EGRESS__ALLOW_CIDRS": "",
    "EGRESS__DENY_CIDRS": "",
    "EGRESS__ALLOW_HTTP": "false",
    "EGRESS__PORTS": "443,8443,1024-65535",
    "EGRESS__CA_FILE": "",
    "LIMITS__HOST_RATE": "100",
    "LIMITS__HOST_BURST": "100",
    "LIMITS__HOST_IN_FLIGHT": "64",
    "LIMITS__IN_FLIGHT": "1000",
    "LIMITS__MEMORY_BYTES": str(256 * 1_048_576),
    "RETRY__LIVE": "0,5,300,1800,7200,18000,36000,50400,72000,86400",
    "RETRY__TEST": "0,5,60,300",
    "RETENTION__PAYLOAD_DAYS": "30",
    "RETENTION__ATTEMPT_DAYS": "90",
    "RETENTION__RESPONSE_DAYS": "7",
    "LEASE__SECONDS": "15",
    "SHUTDOWN__DRAIN_SECONDS": "20",
    "LOG__LEVEL": "info",
    "LOG__FORMAT": "auto",
    "LOG__ATTEMPTS": "failures",
    "DATA_DIR": ".dispatcher",
}


def test_every_published_key_exists_with_its_default() -> None:
    shown = {key.removeprefix("DISPATCHER_"): value for key, value, _ in effective(load({}, required=False))}

    assert {key: shown.get(key) for key in PUBLISHED} == PUBLISHED
    assert {source for *_, source in effective(load({}, required=False))} == {"default"}


def test_nothing_is_required_of_an_embedded_dispatcher_and_its_defaults_are_told_as_such() -> None:
    sources = {key: source for key, _, source in effective(load({}, embedded=True))}

    assert sources["DISPATCHER_EGRESS__ALLOW_CIDRS"] == "embedded"
    assert sources["DISPATCHER_HTTP__BIND"] == "default"


def test_values_are_read_in_the_forms_people_write(needed: dict[str, str]) -> None:
    settings = load(
        {
            **needed,
            "DISPATCHER_HTTP__BIND": "[::1]:0",
            "DISPATCHER_LIMITS__MEMORY_BYTES": "64 MiB",
            "DISPATCHER_KAFKA__TOPICS": "/^verification\\..{1,3}$/",
            "DISPATCHER_RETRY__TEST": "0, 1,2.5",
        }
    )

    assert settings.http.bind == Bind("::1", 0)
    assert settings.limits.memory_bytes == 64 * 1_048_576
    assert settings.kafka.topics == ("/^verification\\..{1,3}$/",)
    assert settings.retry.test == (0.0, 1.0, 2.5)


def test_variables_of_the_command_line_are_no_settings(needed: dict[str, str]) -> None:
    load({**needed, "DISPATCHER_API_URL": "http://x", "DISPATCHER_API_KEY": "whd_x", "DISPATCHER_TEST_KAFKA": "k:1"})


@pytest.mark.parametrize("service", ["DISPATCHER", "DISPATCHER_API", "DISPATCHER_METRICS_2"])
def test_what_kubernetes_makes_of_a_services_name_is_ignored_and_told(needed: dict[str, str], service: str) -> None:
    links = {
        f"{service}_SERVICE_HOST": "10.0.0.7",
        f"{service}_SERVICE_PORT": "8080",
        f"{service}_SERVICE_PORT_HTTP_API": "8080",
        f"{service}_PORT": "tcp://10.0.0.7:8080",
        f"{service}_PORT_8080_TCP": "tcp://10.0.0.7:8080",
        f"{service}_PORT_8080_TCP_PROTO": "tcp",
        f"{service}_PORT_8080_TCP_PORT": "8080",
        f"{service}_PORT_8080_TCP_ADDR": "10.0.0.7",
    }

    settings = load({**needed, **links})

    assert set(settings.ignored) == set(links)
    assert effective(settings) == effective(load(needed))


@pytest.mark.parametrize("key", ["PORT_8080", "PORTS", "SERVICE", "DATADIR", "HTTP__PORT", "KAFKA__SERVICE_HOST"])
def test_what_only_resembles_such_a_variable_is_refused(needed: dict[str, str], key: str) -> None:
    assert f"{key} is no setting" in faults_of({**needed, f"DISPATCHER_{key}": "1"})


def test_the_table_names_every_key() -> None:
    table = settings_table()

    assert all(f"| `{key}` |" in table for key in known_keys())
    assert "None" not in table
