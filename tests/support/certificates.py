"""A certificate authority of our own and the certificates of loopback servers."""

import ssl
import tempfile
from pathlib import Path

import trustme

LOOPBACK_NAMES = (
    "localhost",
    "*.localhost",
    "::1",
    *(f"127.0.0.{number}" for number in range(1, 65)),
)
"""What `Certificates` vouches for unless told otherwise."""


class Certificates:
    """A fresh authority and one server certificate, made in a few milliseconds."""

    def __init__(self, *names: str) -> None:
        self.authority = trustme.CA()
        self._issued = self.authority.issue_cert(*(names or LOOPBACK_NAMES))

    @property
    def authority_pem(self) -> bytes:
        """Return the authority's certificate, for a trust store."""
        return self.authority.cert_pem.bytes()

    @property
    def server_pem(self) -> bytes:
        """Return the server's private key, its certificate and its chain in one text."""
        return self._issued.private_key_and_cert_chain_pem.bytes()

    def server_context(self) -> ssl.SSLContext:
        """Return a context for a listening socket."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # The standard library loads private keys from files alone.
        with tempfile.NamedTemporaryFile(suffix=".pem") as file:
            file.write(self.server_pem)
            file.flush()
            context.load_cert_chain(file.name)
        return context

    def client_context(self) -> ssl.SSLContext:
        """Return a context that trusts this authority and nobody else."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=self.authority_pem.decode("ascii"))
        return context

    def write_authority(self, path: Path) -> Path:
        """Write the authority's certificate to `path` and return that."""
        path.write_bytes(self.authority_pem)
        return path
