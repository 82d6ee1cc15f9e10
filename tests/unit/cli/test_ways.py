"""Which way an operator's command goes: every line of the rule, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import typer

from dispatcher.cli import profile_file
from dispatcher.cli.profile_file import KeptProfile, Profiles
from dispatcher.cli.refusals import CallFailed
from dispatcher.cli.ways import Way

URL = "http://127.0.0.1:1"
OPERATOR, ACCOUNT = "whd_op_k_s", "whd_test_k_s"
DATABASE = {"DISPATCHER_DATABASE__URL": "postgresql://127.0.0.1:1/x"}
READY = {"api_url": URL, "api_keys": {"test": ACCOUNT}, "database_url": "postgresql://127.0.0.1:2/x"}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DISPATCHER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("DISPATCHER_DATABASE__URL", "DISPATCHER_CONFIG"):
        monkeypatch.delenv(name, raising=False)


def way(*said: str | None, database: bool = False, is_typed: bool = False) -> Way:
    return Way(*(*said, None, None, None)[:3], database=database, is_typed=is_typed)


def keep(key: str) -> None:
    profile_file.write(Profiles().kept("mine", KeptProfile(URL, key)))


def key_of(found: Any) -> str | None:
    return None if found is None else found.who.api_key


@pytest.mark.parametrize(
    ("said", "kept", "has_database", "key"),
    [
        ((URL, OPERATOR), None, True, OPERATOR),
        ((URL, ACCOUNT), None, True, None),
        ((None, None), OPERATOR, True, None),
        ((None, None), OPERATOR, False, OPERATOR),
        ((None, None), None, True, None),
    ],
    ids=["operator's key", "account's key", "profile and database", "profile alone", "database alone"],
)
def test_the_nearest_of_api_and_database_is_taken(
    monkeypatch: pytest.MonkeyPatch,
    said: tuple[str | None, str | None],
    kept: str | None,
    has_database: bool,
    key: str | None,
) -> None:
    if kept is not None:
        keep(kept)
    for name, value in DATABASE.items() if has_database else ():
        monkeypatch.setenv(name, value)

    assert key_of(way(*said).operator()) == key


def test_an_embedded_dispatcher_is_reached_through_its_database(tmp_path: Path) -> None:
    (tmp_path / "ready.json").write_text(json.dumps(READY))
    (tmp_path / "ready.json").chmod(0o600)
    keep(OPERATOR)

    assert way().operator() is None


def test_what_is_typed_leads_to_the_api_whatever_key_it_is() -> None:
    assert key_of(way(URL, ACCOUNT, is_typed=True).operator()) == ACCOUNT


def test_what_is_typed_and_leads_nowhere_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*next(iter(DATABASE.items())))

    with pytest.raises(CallFailed, match="no key is known"):
        way(URL, is_typed=True).operator()


def test_an_operators_key_without_its_address_never_leads_to_the_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*next(iter(DATABASE.items())))

    with pytest.raises(CallFailed, match="DISPATCHER_API_URL"):
        way(None, OPERATOR).operator()


def test_the_database_can_be_demanded() -> None:
    assert way(URL, OPERATOR, database=True).operator() is None


def test_with_neither_both_are_named() -> None:
    keep(ACCOUNT)

    with pytest.raises(CallFailed, match=r"whd_op_.*DISPATCHER_DATABASE__URL"):
        way().operator()


def test_contradictions_are_usage_errors() -> None:
    with pytest.raises(typer.BadParameter):
        way(URL, OPERATOR, database=True, is_typed=True)
    with pytest.raises(typer.BadParameter):
        way(URL, OPERATOR, is_typed=True).database("making an operator's key")
    with pytest.raises(typer.BadParameter):
        way(database=True).account(None)
