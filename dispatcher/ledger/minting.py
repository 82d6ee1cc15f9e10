"""Secret texts that people and programs carry, of which only a digest is stored.

    secret   43 characters, 32 random bytes in base 62
    check    6 characters, CRC-32 of everything before it in base 62: tells a typo, and a text that a secret
             scanner took for one of ours, from a real one without a look into the database

A plain SHA-256 is enough for 256 random bits: there is nothing to guess.
"""

import hashlib
import hmac
import secrets
import string
import zlib
from typing import Final

SECRET_LENGTH: Final = 43
CHECK_LENGTH: Final = 6

_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_BYTES: Final = 32


def new_secret() -> str:
    """Return a fresh secret."""
    return secret_of(secrets.token_bytes(_SECRET_BYTES))


def secret_of(raw: bytes) -> str:
    """Return the text of 32 random bytes."""
    return _in_base62(int.from_bytes(raw, "big"), SECRET_LENGTH)


def new_id(length: int) -> str:
    """Return random letters and digits: public, nothing to be kept."""
    return "".join(secrets.choice(_DIGITS) for _ in range(length))


def checked(body: str) -> str:
    """Return a text with its check behind it."""
    return body + _in_base62(zlib.crc32(body.encode()), CHECK_LENGTH)


def is_checked(text: str) -> bool:
    """Tell whether a text of ASCII ends with its own check."""
    return hmac.compare_digest(checked(text[:-CHECK_LENGTH]), text)


def digest_of(secret: str) -> bytes:
    """Return what is stored of a secret."""
    return hashlib.sha256(secret.encode()).digest()


def _in_base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
