"""TLS between two memory buffers: no sockets, no clock, no event loop.

The standard library's transport would do the same, with a quarter of a megabyte of buffer for each
connection, a second queue of unsent bytes that cannot be seen, and a farewell of up to 30 seconds.
"""

import contextlib
import ssl
from typing import Final

from dispatcher.model.outcome import OutcomeKind
from dispatcher.sending.faults import AttemptFailed

_RECORD_BYTES: Final = 16_384
_REASONS: Final = {
    10: "the certificate has expired",
    9: "the certificate is not valid yet",
    18: "the certificate is self-signed",
    19: "the certificate chain ends in an unknown self-signed certificate",
    20: "the certificate's issuer is unknown",
    21: "the certificate chain is incomplete",
    62: "the certificate is for another host name",
    64: "the certificate is for another address",
}
"""OpenSSL's verification results that customers can act on, in our words."""


class TlsLayer:
    """One client side of TLS. Feed it ciphertext, send what it gives. One task at a time."""

    __slots__ = ("_incoming", "_outgoing", "_session", "is_ended", "is_established")

    def __init__(self, context: ssl.SSLContext, server_hostname: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_hostname)
        self.is_established = False
        self.is_ended = False

    def shake(self, data: bytes | memoryview = b"") -> None:
        """Advance the handshake with the peer's bytes; afterwards send `pending`.

        Raises:
            AttemptFailed: the peer is not who it should be, or speaks something else. `pending` then
                holds the alert.
        """
        if data:
            self._incoming.write(data)
        try:
            self._session.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as fault:
            raise AttemptFailed(OutcomeKind.TLS_ERROR, _reason_of(fault)) from fault
        self.is_established = True

    @property
    def has_unread(self) -> bool:
        """Whether bytes that came with the handshake wait to be opened."""
        return self._incoming.pending > 0

    def pending(self) -> bytes:
        """Take the bytes that wait to be sent: handshake, alerts, key updates. Often empty."""
        return self._outgoing.read() if self._outgoing.pending else b""

    def seal(self, data: bytes) -> bytes:
        """Return the ciphertext of `data`."""
        self._session.write(data)
        return self._outgoing.read()

    def open(self, data: bytes | memoryview) -> bytes:
        """Return the plaintext that the peer's bytes complete; empty when they complete none.

        Raises:
            AttemptFailed: a broken record or an alert, and no plaintext before it. With some the session is ended: it
                may be the whole answer, and forgetting it would send the request again.
        """
        if data:
            self._incoming.write(data)
        session, incoming = self._session, self._incoming
        plain = b""
        try:
            # Asking only while something is left spares the exception that says "nothing is".
            while True:
                more = session.read(_RECORD_BYTES)
                self.is_ended = not more
                plain += more
                # One reading empties a record: none is larger.
                if not more or not incoming.pending:
                    return plain
        except ssl.SSLWantReadError:
            return plain
        except ssl.SSLError as fault:
            if plain:
                self.is_ended = True
                return plain
            raise AttemptFailed(OutcomeKind.TLS_ERROR, _reason_of(fault)) from fault

    def farewell(self) -> bytes:
        """Return the bytes that tell the peer we are leaving; its answer is not waited for."""
        with contextlib.suppress(ssl.SSLError):
            self._session.unwrap()
        return self.pending()


def _reason_of(fault: ssl.SSLError) -> str:
    if isinstance(fault, ssl.SSLCertVerificationError):
        return _REASONS.get(fault.verify_code, "the certificate cannot be verified")
    # OpenSSL's constant, such as WRONG_VERSION_NUMBER: not the peer's bytes.
    return f"TLS failed: {(fault.reason or 'unknown reason').lower().replace('_', ' ')}"
