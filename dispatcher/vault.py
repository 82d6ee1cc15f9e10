"""Seals and opens secrets at rest: AES-256-GCM under a ring of keys.

A sealed value names the key that sealed it, so that the primary can change while older values still open. Its
place (table, column, row) is authenticated with it: a ciphertext moved to another row does not open.

    1 byte format | 1 byte length of key id | key id | 12 bytes nonce | ciphertext with 16 bytes of tag

What is only shown and comes back, a place in a list, has a key of its own that no ring rotates: PlaceSeals.
"""

import base64
import binascii
import contextlib
import os
import re
import secrets
from pathlib import Path
from typing import Final, NamedTuple

import orjson
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dispatcher.model.errors import ConfigurationError, SealBroken

_FORMAT: Final = 1
_NONCE_BYTES: Final = 12
_KEY_BYTES: Final = 32
_SIV_KEY_BYTES: Final = 64
_KEY_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")


class _Stamp(NamedTuple):
    """By which two versions of a file are told apart."""

    inode: int
    changed_ns: int
    size: int


class Vault:
    """A key ring in use. Made by `load`; values never appear in a repr."""

    def __init__(self, path: Path, primary: str, keys: dict[str, AESGCM]) -> None:
        self._path = path
        self._primary = primary
        self._keys = keys
        self._stamp: _Stamp | None = None

    @classmethod
    def load(cls, path: Path) -> "Vault":
        """Read a key ring: JSON `{"primary": id, "keys": {id: base64 of 32 bytes}}`.

        Raises:
            ConfigurationError: unreadable, readable by everybody, malformed, or without its primary key.
        """
        # Before the file is read: a change in between is noticed by the next refresh.
        stamp = _stamp_of(path)
        made = cls(path, *_read(path))
        made._stamp = stamp
        return made

    @classmethod
    def create_file(cls, path: Path) -> None:
        """Write a new ring of one random key, mode 0600, whole or not at all. An existing file is left alone.

        Raises:
            FileExistsError: there is one; losing it would make every sealed secret useless.
        """
        key_id = f"k{secrets.token_hex(4)}"
        ring = {"primary": key_id, "keys": {key_id: base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}}
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        partial.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(orjson.dumps(ring, option=orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(handle)
            os.link(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    @property
    def primary(self) -> str:
        """Return the id of the key that seals."""
        return self._primary

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Return the ids of all keys that open, in the file's order."""
        return tuple(self._keys)

    def reload(self) -> None:
        """Read the file again; on any fault the ring in use stays and ConfigurationError is raised."""
        stamp = _stamp_of(self._path)
        self._primary, self._keys = _read(self._path)
        self._stamp = stamp

    def refresh(self) -> bool:
        """Read the file again when it is another one, or another version of it, than was read; tell whether it was.

        A mounted secret changes by a link to another file, hence the look at its inode. Faults are as of `reload`,
        again at every call until the file is mended.
        """
        if _stamp_of(self._path) == self._stamp:
            return False
        self.reload()
        return True

    def seal(self, plain: bytes, place: str) -> bytes:
        """Return `plain` sealed for `place` under the primary key."""
        nonce = os.urandom(_NONCE_BYTES)
        name = self._primary.encode()
        ciphertext = self._keys[self._primary].encrypt(nonce, plain, place.encode())
        return bytes([_FORMAT, len(name)]) + name + nonce + ciphertext

    def open(self, sealed: bytes, place: str) -> bytes:
        """Return what was sealed for `place`.

        Raises:
            SealBroken: another place, another format, a key that the ring lacks, or tampering.
        """
        key_id = key_id_of(sealed)
        start = 2 + len(key_id.encode())
        nonce, ciphertext = sealed[start : start + _NONCE_BYTES], sealed[start + _NONCE_BYTES :]
        key = self._keys.get(key_id) or self._latest(key_id)
        if key is None:
            message = f"{place}: sealed with the key {key_id}, which is not in the key ring"
            raise SealBroken(message)
        try:
            return key.decrypt(nonce, ciphertext, place.encode())
        except (InvalidTag, ValueError) as fault:
            message = f"{place}: the sealed value does not open with the key {key_id}"
            raise SealBroken(message) from fault

    def _latest(self, key_id: str) -> AESGCM | None:
        """Look for a key in the file as it is now: another process may have read it, and sealed with it, sooner."""
        with contextlib.suppress(ConfigurationError):
            self.refresh()
        return self._keys.get(key_id)


def key_id_of(sealed: bytes) -> str:
    """Return the id of the key that sealed a value. Raises SealBroken when it is no sealed value."""
    if len(sealed) < 2 or sealed[0] != _FORMAT or len(sealed) < 2 + sealed[1] + _NONCE_BYTES:
        message = "this is no sealed value"
        raise SealBroken(message)
    return sealed[2 : 2 + sealed[1]].decode("ascii", "replace")


def _stamp_of(path: Path) -> _Stamp | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return _Stamp(found.st_ino, found.st_mtime_ns, found.st_size)


class PlaceSeals:
    """Seals places in lists, for clients to keep: AES-SIV under a key made from the installation's `key`, 32 bytes.

    No ring: what a client kept opens for as long as the database lives. No nonce: every page is a seal, and random
    nonces would use the key up after 2^32 of them. Equal places look equal, which tells nothing.
    """

    def __init__(self, key: bytes) -> None:
        self._siv = AESSIV(HKDF(SHA256(), _SIV_KEY_BYTES, salt=None, info=b"dispatcher places").derive(key))

    def seal(self, plain: bytes, place: str) -> bytes:
        """Return `plain` sealed for `place`."""
        return self._siv.encrypt(plain, [place.encode()])

    def open(self, sealed: bytes, place: str) -> bytes:
        """Return what was sealed for `place`. Raises SealBroken: for another one, or by nobody."""
        try:
            return self._siv.decrypt(sealed, [place.encode()])
        except (InvalidTag, ValueError) as fault:
            message = f"{place}: not sealed here"
            raise SealBroken(message) from fault


def _read(path: Path) -> tuple[str, dict[str, AESGCM]]:
    try:
        if path.stat().st_mode & 0o004:
            raise ConfigurationError([f"the key ring {path} can be read by everybody: chmod 0600 it"])
        ring = orjson.loads(path.read_bytes())
        keys = {name: base64.b64decode(text, validate=True) for name, text in ring["keys"].items()}
        primary = ring["primary"]
    except (OSError, orjson.JSONDecodeError, binascii.Error, KeyError, TypeError, AttributeError, ValueError) as fault:
        raise ConfigurationError([f"the key ring {path} cannot be used: {type(fault).__name__}: {fault}"]) from fault
    faults = [f"the key ring {path}: {name!r} is no key id" for name in keys if not _KEY_ID.fullmatch(name)]
    faults += [
        f"the key ring {path}: the key {name} has {len(key)} bytes, not 32"
        for name, key in keys.items()
        if len(key) != _KEY_BYTES
    ]
    if not isinstance(primary, str) or primary not in keys:
        faults.append(f"the key ring {path}: the primary key {primary!r} is not in it")
    if faults:
        raise ConfigurationError(faults)
    return primary, {name: AESGCM(key) for name, key in keys.items()}
