"""Bytes to one HTTP response, bounded in every direction; no sockets, no clock.

The parser below (llhttp) is strict about syntax and careless about size: it accepts any number of
headers, megabytes of chunk extensions and endless informational heads. So the raw bytes are counted
here, before it sees them:

    |<-- heads: 16 KiB, 64 lines, 4 informational -->|<-- body: 16 KiB, framing: 4 KiB -->|

The first head that is not informational decides the status, whatever follows it. The counts start at
the first byte of the exchange, so the answer does not depend on how the network splits the bytes.
"""

from typing import Final

import httptools

HEAD_BYTES: Final = 16_384
BODY_BYTES: Final = 16_384
FRAMING_BYTES: Final = 4_096
"""Chunk sizes, chunk extensions and trailers; a peer that needs more is cut, which is no failure."""

_RAW_BYTES: Final = HEAD_BYTES + BODY_BYTES + FRAMING_BYTES
_MOST_LINES: Final = 64
_MOST_INFORMATIONAL: Final = 4
_LOWEST_STATUS: Final = 100
_LOWEST_FINAL: Final = 200
_FIRST_FAILURE: Final = 300
_HIGHEST_STATUS: Final = 599
_SWITCHING: Final = 101


class ResponseReader:
    """Reads one response after another from one connection; `restart` between them.

    `status` is 0 until the final head is complete, then it stays. `fault` is our words for why there is
    no usable response. Exactly one task's bytes at a time.
    """

    __slots__ = (
        "_n_body",
        "_n_informational",
        "_n_lines",
        "_n_raw",
        "_parser",
        "_pieces",
        "fault",
        "has_leftover",
        "headers",
        "is_complete",
        "is_cut",
        "keeps_alive",
        "status",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.restart()

    def restart(self) -> None:
        """Forget the last response; only after one that ended complete and left nothing over."""
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.fault = ""
        self.is_complete = False
        self.is_cut = False
        self.keeps_alive = False
        self.has_leftover = False
        self._pieces: list[bytes] = []
        self._n_raw = 0
        self._n_body = 0
        self._n_lines = 0
        self._n_informational = 0

    @property
    def body(self) -> bytes:
        """The body so far, without framing, at most 16 KiB."""
        return b"".join(self._pieces)

    @property
    def retry_after(self) -> bytes | None:
        """The header of that name in a head that is no success."""
        return self.header(b"retry-after") if self.status >= _FIRST_FAILURE else None

    @property
    def can_continue(self) -> bool:
        """Whether the connection may carry another exchange after this one."""
        return self.is_complete and self.keeps_alive and not (self.is_cut or self.has_leftover)

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of this name (lower case) in the final head."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None

    def feed(self, data: bytes | memoryview) -> bool:
        """Take the next bytes; tell whether the response is over: complete, cut or at fault."""
        seen = self._n_raw
        self._n_raw = seen + len(data)
        if self._n_raw <= HEAD_BYTES:
            self._parse(data)
        else:
            self._feed_bounded(memoryview(data), seen)
        return self.is_complete or self.is_cut or self.fault != ""

    def end(self) -> None:
        """Note that the peer closed: that ends a body without a length, and cuts one with a length."""
        if self.status and not self.is_complete:
            is_framed = self.header(b"content-length") or self.header(b"transfer-encoding")
            self.is_complete, self.is_cut = not is_framed, bool(is_framed)

    def _feed_bounded(self, data: memoryview, seen: int) -> None:
        if not self.status:
            room = max(0, HEAD_BYTES - seen)
            head, data = data[:room], data[room:]
            seen += len(head)
            self._parse(head)
            if not self.status:
                self._refuse(f"response head larger than {HEAD_BYTES} bytes")
                return
        self._parse(data[: max(0, _RAW_BYTES - seen)])
        if self._n_raw > _RAW_BYTES and not self.is_complete:
            self.is_cut = True

    def _parse(self, data: bytes | memoryview) -> None:
        if not data or self.fault:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._spoil("the response switches protocols")
        except httptools.HttpParserError:
            self._spoil("not a valid HTTP/1.1 response")

    def _spoil(self, reason: str) -> None:
        """Note that nothing after this point can be read; a head that was complete still counts."""
        self.has_leftover = True
        if not self.status:
            self._refuse(reason)
        elif not self.is_complete:
            self.is_cut = True

    def _refuse(self, reason: str) -> None:
        if not (self.status or self.fault):
            self.fault = reason

    # The parser's callbacks. It goes on to the next message by itself, so each looks at the state first.

    def on_message_begin(self) -> None:
        """Note a message after the final one: bytes that belong to no request of ours."""
        if self.is_complete:
            self.has_leftover = True

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of a head; trailers come here too and are dropped."""
        if not self.status:
            self._n_lines += 1
            if self._n_lines <= _MOST_LINES:
                self.headers.append((name, value))
            else:
                self._refuse(f"more than {_MOST_LINES} header lines")

    def on_headers_complete(self) -> None:
        """Latch the first final head."""
        if self.status or self.fault:
            return
        status = self._parser.get_status_code()
        version = self._parser.get_http_version()
        if version not in {"1.1", "1.0"}:
            self._refuse("an HTTP version other than 1.0 and 1.1")
        elif not _LOWEST_STATUS <= status <= _HIGHEST_STATUS:
            self._refuse("a status outside 100 to 599")
        elif status == _SWITCHING:
            self._refuse("the response switches protocols")
        elif status < _LOWEST_FINAL:
            self._skip_informational()
        else:
            self.status = status
            self.keeps_alive = version == "1.1" and self._parser.should_keep_alive()

    def _skip_informational(self) -> None:
        self.headers.clear()
        self._n_informational += 1
        if self._n_informational > _MOST_INFORMATIONAL:
            self._refuse(f"more than {_MOST_INFORMATIONAL} informational responses")

    def on_body(self, data: bytes) -> None:
        """Keep the first bytes of the body."""
        if not self.status or self.is_complete or self.is_cut:
            return
        room = BODY_BYTES - self._n_body
        if len(data) > room:
            data = data[:room]
            self.is_cut = True
        self._n_body += len(data)
        self._pieces.append(data)

    def on_message_complete(self) -> None:
        """Note the end of the final response; informational ones end here too."""
        if self.status and not self.is_cut:
            self.is_complete = True
