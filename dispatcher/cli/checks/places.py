"""Where the servers of a dispatcher are, as far as this machine knows; and whether the settings can be read at all."""

import os
from dataclasses import dataclass
from pathlib import Path

from dispatcher.cli.checks.finding import Finding, fail, ok, skip, warn
from dispatcher.cli.client import read_ready_file, ready_file
from dispatcher.cli.own_files import StrangersFile
from dispatcher.intake.consumer import KafkaSettings, kafka_settings
from dispatcher.model.errors import ConfigurationError
from dispatcher.settings import Settings, load


@dataclass(frozen=True, slots=True)
class Places:
    """What there is to look at; None where nobody says. `settings` are the defaults where they have faults."""

    settings: Settings
    database_url: str | None
    kafka: KafkaSettings | None
    key_file: Path | None
    findings: tuple[Finding, ...]


def find_places() -> Places:
    """Read the settings, and the ready file of an embedded dispatcher where nothing is configured."""
    is_configured = "DISPATCHER_CONFIG" in os.environ or "DISPATCHER_DATABASE__URL" in os.environ
    try:
        ready = None if is_configured else read_ready_file()
        settings = load(os.environ, embedded=ready is not None, required=False)
    except ConfigurationError as fault:
        cure = "`dispatcher config check` shows every key and where its value comes from"
        faults = tuple(fail("settings", one, cure) for one in fault.faults)
        return Places(Settings(), None, None, None, faults)
    except StrangersFile as fault:
        return Places(Settings(), None, None, None, (fail("settings", str(fault), "until then nothing of it is used"),))
    if ready is not None:
        told = ok("settings", f"of the embedded dispatcher in {ready_file().parent}")
        kafka = None
        if ready.get("kafka_bootstrap") and ready.get("topics"):
            kafka = KafkaSettings(ready["kafka_bootstrap"], tuple(ready["topics"]), "doctor")
        ring = settings.secrets.key_file or ready_file().with_name("key-ring.json")
        return Places(settings, ready.get("database_url"), kafka, ring, (told,))
    url = settings.database_url() or None
    kafka = kafka_settings(settings) if settings.kafka.bootstrap_servers else None
    if url is None and kafka is None:
        cure = "set DISPATCHER_DATABASE__URL and the like, or run it in the folder of an embedded dispatcher"
        told = skip("settings", f"nothing is configured, and there is no {ready_file()}", cure)
    elif settings.ignored:
        cure = "if Kubernetes made them of a service's name, set `enableServiceLinks: false`; else take them away"
        told = warn("settings", f"read without a fault; ignored: {', '.join(settings.ignored)}", cure)
    else:
        told = ok("settings", "read without a fault")
    return Places(settings, url, kafka, settings.secrets.key_file, (told,))
