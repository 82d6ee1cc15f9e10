"""The exceptions of the product: one root, and a class only where somebody catches it."""


class DispatcherError(Exception):
    """Something the operator or caller must know; the message says what, which id, and what to do."""


class ConfigurationError(DispatcherError):
    """The settings cannot be used. `faults` lists every one of them, not only the first."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("; ".join(faults))
        self.faults = faults


class Unavailable(DispatcherError):
    """A dependency of ours is away or its answer was lost; the outcome of the call is unknown. Retry.

    `why` is what a client of ours may be told, empty when there is nothing to tell.
    """

    def __init__(self, message: str, *, why: str = "") -> None:
        super().__init__(message)
        self.why = why


class AccountTaken(DispatcherError):
    """The public id that an account was to have belongs to one already."""


class Fenced(DispatcherError):
    """This replica was taken over: its rows belong to another one. Stop at once, settle nothing."""


class PoisonBatch(DispatcherError):
    """Postgres refuses a batch for what it holds (SQLSTATE class 22 or 23). Bisect it, do not retry."""


class SealBroken(DispatcherError):
    """A sealed value cannot be opened: wrong key, wrong place or tampered. Never fall back to plain."""
