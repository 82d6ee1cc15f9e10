"""Sealing: opens where it was sealed, under a key of the ring, untouched; and nowhere else."""

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.model.errors import ConfigurationError, SealBroken
from dispatcher.vault import Vault, key_id_of

PLACE = "endpoint_secret:we_1:7"


def ring(path: Path, primary: str = "k1", **keys: bytes) -> Path:
    """Write a key ring."""
    encoded = {name: base64.b64encode(key).decode() for name, key in (keys or {"k1": b"1" * 32}).items()}
    path.write_text(json.dumps({"primary": primary, "keys": encoded}))
    path.chmod(0o600)
    return path


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    return Vault.load(ring(tmp_path / "ring.json"))


@given(plain=st.binary(max_size=500), place=st.text(max_size=50))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_sealed_opens_at_its_place(vault: Vault, plain: bytes, place: str) -> None:
    sealed = vault.seal(plain, place)

    assert vault.open(sealed, place) == plain
    assert len(plain) < 8 or plain not in sealed
    assert vault.seal(plain, place) != sealed


def test_a_value_moved_to_another_place_does_not_open(vault: Vault) -> None:
    with pytest.raises(SealBroken):
        vault.open(vault.seal(b"secret", PLACE), "endpoint_secret:we_2:7")


@given(at=st.integers(0, 60), bit=st.integers(0, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_flipped_bit_does_not_open(vault: Vault, at: int, bit: int) -> None:
    sealed = bytearray(vault.seal(b"a secret of some length, forty bytes long", PLACE))
    sealed[at] ^= 1 << bit

    with pytest.raises(SealBroken):
        vault.open(bytes(sealed), PLACE)


@given(st.binary(max_size=64))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_rubbish_does_not_open_and_breaks_nothing(vault: Vault, rubbish: bytes) -> None:
    with pytest.raises(SealBroken):
        vault.open(rubbish, PLACE)


def test_a_rotated_ring_opens_the_old_and_seals_with_the_new(tmp_path: Path) -> None:
    path = ring(tmp_path / "ring.json")
    vault = Vault.load(path)
    old = vault.seal(b"secret", PLACE)

    ring(path, "k2", k1=b"1" * 32, k2=b"2" * 32)
    vault.reload()

    assert vault.open(old, PLACE) == b"secret"
    assert (key_id_of(old), key_id_of(vault.seal(b"x", PLACE))) == ("k1", "k2")


def test_a_ring_without_the_key_says_which_one_is_missing(tmp_path: Path) -> None:
    sealed = Vault.load(ring(tmp_path / "a.json")).seal(b"secret", PLACE)
    other = Vault.load(ring(tmp_path / "b.json", "k9", k9=b"9" * 32))

    with pytest.raises(SealBroken, match="k1"):
        other.open(sealed, PLACE)


def test_a_faulty_reload_keeps_the_ring_in_use(tmp_path: Path) -> None:
    path = ring(tmp_path / "ring.json")
    vault = Vault.load(path)
    sealed = vault.seal(b"secret", PLACE)
    path.write_text("{")

    with pytest.raises(ConfigurationError):
        vault.reload()

    assert vault.open(sealed, PLACE) == b"secret"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        {"primary": "k1", "keys": {}},
        {"primary": "k1", "keys": {"k1": "not base64!"}},
        {"primary": "k1", "keys": {"k1": base64.b64encode(b"short").decode()}},
        {"primary": "k2", "keys": {"k1": base64.b64encode(b"1" * 32).decode()}},
        {"primary": [], "keys": {}},
        {"primary": None, "keys": None},
        {"primary": "k1", "keys": {"k1": 5}},
        {"primary": "k1", "keys": ["k1"]},
        {"primary": "a b", "keys": {"a b": base64.b64encode(b"1" * 32).decode()}},
    ],
    ids=str,
)
def test_a_ring_that_cannot_be_used_is_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "ring.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(0o600)

    with pytest.raises(ConfigurationError, match=r"the key ring .*ring\.json"):
        Vault.load(path)


def test_a_ring_that_everybody_can_read_or_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = ring(tmp_path / "ring.json")
    path.chmod(0o644)

    with pytest.raises(ConfigurationError, match="everybody"):
        Vault.load(path)
    with pytest.raises(ConfigurationError):
        Vault.load(tmp_path / "nowhere.json")


def test_a_new_ring_is_ours_alone_and_never_replaces_one(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ring.json"
    Vault.create_file(path)
    before = path.read_bytes()

    with pytest.raises(FileExistsError):
        Vault.create_file(path)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["ring.json"]
    assert Vault.load(path).open(Vault.load(path).seal(b"x", PLACE), PLACE) == b"x"


def test_a_file_that_changed_or_was_swapped_is_read_again_and_only_then(tmp_path: Path) -> None:
    file = ring(tmp_path / "ring.json")
    vault = Vault.load(file)
    assert not vault.refresh()

    ring(file, "k2", k1=b"1" * 32, k2=b"2" * 32)
    assert vault.refresh()
    assert (vault.primary, vault.key_ids) == ("k2", ("k1", "k2"))
    assert not vault.refresh()

    ring(tmp_path / "next.json", "k3", k2=b"2" * 32, k3=b"3" * 32).replace(file)
    assert vault.refresh()
    assert vault.primary == "k3"


def test_a_file_that_went_away_or_broke_leaves_the_ring_in_use_until_it_is_mended(tmp_path: Path) -> None:
    file = ring(tmp_path / "ring.json")
    vault = Vault.load(file)
    sealed = vault.seal(b"secret", PLACE)

    for spoil in (file.unlink, lambda: file.write_text("{")):
        spoil()
        for _ in range(2):
            with pytest.raises(ConfigurationError):
                vault.refresh()
        assert vault.open(sealed, PLACE) == b"secret"
    ring(file, "k2", k1=b"1" * 32, k2=b"2" * 32)

    assert vault.refresh()


def test_a_value_that_a_faster_process_sealed_with_the_next_key_opens_at_once(tmp_path: Path) -> None:
    file = ring(tmp_path / "ring.json")
    slow = Vault.load(file)
    ring(file, "k2", k1=b"1" * 32, k2=b"2" * 32)
    sealed = Vault.load(file).seal(b"secret", PLACE)

    assert slow.open(sealed, PLACE) == b"secret"
