"""The one exception of this room: an attempt that ended without an answer."""

from dispatcher.model.errors import DispatcherError
from dispatcher.model.outcome import OutcomeKind


class AttemptFailed(DispatcherError):
    """Carries the kind and reason of an outcome from where it happened to where it becomes a value.

    `is_silent` means that the connection died before the first byte of the response, so that the
    request may never have been read. The reason is in our own words, never the peer's bytes.
    """

    def __init__(self, kind: OutcomeKind, reason: str, *, is_silent: bool = False) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.is_silent = is_silent
