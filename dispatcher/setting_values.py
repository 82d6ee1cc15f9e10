"""How the values of settings are read: from text as people type it, refused with words that say what to type."""

import datetime as dt
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, NamedTuple, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

from dispatcher.model.errors import ConfigurationError
from dispatcher.policy.addresses import EgressPolicy
from dispatcher.policy.instants import read_instant
from dispatcher.policy.retrying import check_schedule
from dispatcher.policy.urls import PortRules

MIB: Final = 1_048_576
PLAIN_NAMES: Final = ("source", "id", "type", "time", "account", "environment", "data")


class Bind(NamedTuple):
    """Where to listen; port 0 means any free one."""

    host: str
    port: int


def _read_bind(value: object) -> object:
    if not isinstance(value, str):
        return value
    host, colon, port = value.rpartition(":")
    if not colon or not port.isdigit() or not 0 <= int(port) <= 65_535:
        message = "give host:port, like 127.0.0.1:8080; port 0 means any free one"
        raise ValueError(message)
    return Bind(host.strip("[]") or "0.0.0.0", int(port))  # noqa: S104 - ":8080" asks for it


def _read_list(value: object) -> object:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _read_topics(value: object) -> object:
    if isinstance(value, str) and len(value) > 2 and value.startswith("/") and value.endswith("/"):
        return (value,)
    return _read_list(value)


def _read_plain(value: object) -> object:
    if not isinstance(value, str):
        return value
    return {name.strip(): path.strip() for name, _, path in (part.partition("=") for part in value.split(",")) if name}


def _checked_plain(value: Mapping[str, str]) -> Mapping[str, str]:
    if value and (set(value) != set(PLAIN_NAMES) or not all(value.values())):
        message = f"give NAME=PATH for each of {', '.join(PLAIN_NAMES)}, like id=meta.id; source=/some/name"
        raise ValueError(message)
    return value


def _read_instant(value: object) -> object:
    if not isinstance(value, str):
        return value
    if not value:
        return None
    message = "give an instant with its offset, like 2026-12-01T06:00:00Z"
    instant = read_instant(value)
    if instant is None:
        raise ValueError(message)
    return instant


def _read_bytes(value: object) -> object:
    if isinstance(value, str):
        number, _, unit = value.partition(" ")
        scale = {"": 1, "KiB": 1_024, "MiB": MIB, "GiB": 1_024 * MIB}.get(unit)
        if scale is None or not number.isdigit():
            message = "give bytes, like 268435456 or 256 MiB"
            raise ValueError(message)
        return int(number) * scale
    return value


def _checked_schedule(value: tuple[float, ...]) -> tuple[float, ...]:
    if faults := check_schedule(value):
        raise ValueError("; ".join(faults))
    return value


def _checked_ports(value: str) -> str:
    PortRules.parse(value)
    return value


def _checked_cidrs(value: tuple[str, ...]) -> tuple[str, ...]:
    try:
        EgressPolicy.parse(value, ())
    except ConfigurationError as fault:
        raise ValueError("; ".join(fault.faults)) from fault
    return value


def _must_exist(value: Path | None) -> Path | None:
    if value is not None and not value.is_file():
        message = f"there is no file {value}"
        raise ValueError(message)
    return value


BindField: TypeAlias = Annotated[Bind, BeforeValidator(_read_bind)]
CidrsField: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_read_list), AfterValidator(_checked_cidrs)]
TopicsField: TypeAlias = Annotated[tuple[str, ...], BeforeValidator(_read_topics), Field(min_length=1)]
PlainField: TypeAlias = Annotated[Mapping[str, str], BeforeValidator(_read_plain), AfterValidator(_checked_plain)]
FileField: TypeAlias = Annotated[Path | None, AfterValidator(_must_exist)]
ScheduleField: TypeAlias = Annotated[tuple[float, ...], BeforeValidator(_read_list), AfterValidator(_checked_schedule)]
InstantField: TypeAlias = Annotated[dt.datetime | None, BeforeValidator(_read_instant)]
PortsField: TypeAlias = Annotated[str, AfterValidator(_checked_ports)]
BytesField: TypeAlias = Annotated[int, BeforeValidator(_read_bytes)]
