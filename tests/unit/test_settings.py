"""Settings: every fault at once, the right source wins, nothing secret is shown."""

from pathlib import Path

import pytest

from dispatcher.model.errors import ConfigurationError
from dispatcher.settings import Bind, effective, known_keys, load, settings_table


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


def test_no_secret_is_shown(needed: dict[str, str], tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("hunter23\n")
    settings = load({**needed, "DISPATCHER_DATABASE__PASSWORD_FILE": str(password)})

    assert "hunter" not in repr(effective(settings))
    assert settings.database_url() == "postgresql://dispatcher:hunter23@db/dispatcher"


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


def test_the_table_names_every_key() -> None:
    table = settings_table()

    assert all(f"| `{key}` |" in table for key in known_keys())
    assert "None" not in table
