"""Public identifiers: how they look, how they are made, and that they tell nothing.

| noun | form | made from |
| --- | --- | --- |
| event | `evt_` + 32 of `[a-z2-7]` | SHA-256 of source, newline, id: the same for every redelivery |
| test event | `evt_test_` + 26 of `[a-z2-7]` | random |
| delivery | `dlv_` + 13 of `[a-z2-7]` | keyed permutation of the row's bigint: unique, reveals no count |
| endpoint | `we_` + 16 letters and digits | random |
| replay | `rpl_` + 16 letters and digits | random |
| user | `usr_` + 16 letters and digits | random |
| account | `acct_` + 16 letters and digits | random, or given by the producer |
| dead event | `topic/partition/offset` | where its record stood |
"""

import base64
import hashlib
import re
import secrets
import string
from typing import Final

from dispatcher.model.base32 import Base32

_ALPHANUMERIC: Final = string.ascii_letters + string.digits
_EVENT_ID: Final = re.compile(r"evt_[a-z2-7]{32}")
_TEST_EVENT_ID: Final = re.compile(r"evt_test_[a-z2-7]{26}")
_DELIVERY_ID: Final = re.compile(r"dlv_[a-z2-7]{13}")
_DEAD_PLACE: Final = re.compile(r"([A-Za-z0-9._-]{1,249})/([0-9]{1,10})/([0-9]{1,19})")
_LAST_PARTITION: Final = (1 << 31) - 1
_LAST_OFFSET: Final = (1 << 63) - 1
ACCOUNT_ID: Final = re.compile(r"acct_[A-Za-z0-9]{10,40}")
TEST_EVENT_BYTES: Final = 16
_ROUNDS: Final = range(4)
_HALF: Final = 0xFFFFFFFF
_OF_EVENT: Final = Base32(32)
_OF_DELIVERY: Final = Base32(16)


def event_id_of(source: str, producer_id: str) -> bytes:
    """Return the 20 bytes that identify an event; equal source and id give equal bytes for ever."""
    return hashlib.sha256(f"{source}\n{producer_id}".encode()).digest()[:20]


def show_event_id(event_id: bytes) -> str:
    """Return the public form, `evt_` and 32 characters without a full stop (safe in signed text).

    A test's 16 bytes are told apart by their length.
    """
    if len(event_id) == TEST_EVENT_BYTES:
        return "evt_test_" + base64.b32encode(event_id).decode("ascii").rstrip("=").lower()
    return "evt_" + _OF_EVENT.show(int.from_bytes(event_id))


def new_test_event_id() -> bytes:
    """Return the fresh random id of a test event."""
    return secrets.token_bytes(TEST_EVENT_BYTES)


def parse_event_id(text: str) -> bytes | None:
    """Return the 20 bytes of a public event id, or None when `text` is not one."""
    if not _EVENT_ID.fullmatch(text):
        return None
    return base64.b32decode(text[4:].upper())


def parse_test_event_id(text: str) -> bytes | None:
    """Return the 16 bytes of a test event's public id, or None when `text` is not one."""
    if not _TEST_EVENT_ID.fullmatch(text):
        return None
    event_id = base64.b32decode(text[9:].upper() + "======")
    return event_id if show_event_id(event_id) == text else None


def parse_dead_place(text: str) -> tuple[str, int, int] | None:
    """Return topic, partition and offset of a dead event's name, None where Kafka has no such place."""
    parts = _DEAD_PLACE.fullmatch(text)
    if parts is None or int(parts[2]) > _LAST_PARTITION or int(parts[3]) > _LAST_OFFSET:
        return None
    return parts[1], int(parts[2]), int(parts[3])


def new_endpoint_id() -> str:
    """Return a fresh random endpoint id."""
    return "we_" + _random_text(16)


def new_replay_id() -> str:
    """Return a fresh random id of a replay."""
    return "rpl_" + _random_text(16)


def new_user_id() -> str:
    """Return a fresh random id of a person."""
    return "usr_" + _random_text(16)


def new_account_id() -> str:
    """Return a fresh random account id."""
    return "acct_" + _random_text(16)


def _random_text(length: int) -> str:
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(length))


class DeliveryIds:
    """Turn delivery numbers into public ids and back.

    A four-round Feistel network over 64 bits with keyed BLAKE2b: a permutation, so ids never collide,
    and without the key neither order nor count can be read off them. `key` is the installation's
    (32 bytes, made by the first migration); replicas of one database share it.
    """

    def __init__(self, key: bytes) -> None:
        keys = [hashlib.blake2b(bytes([n]), key=key, digest_size=16).digest() for n in _ROUNDS]
        # Copying a keyed state is cheaper than keying one, and every delivery's attempt shows its id.
        self._keyed = [hashlib.blake2b(key=one, digest_size=4).copy for one in keys]

    def show(self, delivery_id: int) -> str:
        """Return `dlv_` and 13 characters for a number in 0..2^64-1."""
        left, right = delivery_id >> 32, delivery_id & _HALF
        for keyed in self._keyed:
            state = keyed()
            state.update(right.to_bytes(4))
            left, right = right, left ^ int.from_bytes(state.digest())
        # 64 bits and a spare one make 13 characters.
        return "dlv_" + _OF_DELIVERY.show((left << 32 | right) << 1)[-13:]

    def parse(self, text: str) -> int | None:
        """Return the number behind a public id, or None when `text` cannot be one of ours."""
        if not _DELIVERY_ID.fullmatch(text):
            return None
        mixed = int.from_bytes(base64.b32decode(text[4:].upper() + "==="), "big")
        left, right = mixed >> 32, mixed & _HALF
        for keyed in reversed(self._keyed):
            state = keyed()
            state.update(left.to_bytes(4, "big"))
            left, right = right ^ int.from_bytes(state.digest(), "big"), left
        number = left << 32 | right
        # A 13th character holds 4 bits of the number and 1 spare: refuse the second spelling.
        return number if number < 1 << 63 and self.show(number) == text else None
