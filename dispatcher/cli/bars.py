"""The last hours of an endpoint as a line of small bars."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

_SHARES: Final = "▁▂▃▄▅▆▇█"
_QUIET: Final = "·"


def bars(hours: Sequence[Mapping[str, Any]]) -> str:
    """Return one character per hour: as high as the share of its requests that delivered, a dot for one without any."""
    return "".join(_bar(hour["attempts"], hour["delivered"]) for hour in hours)


def _bar(n_attempts: int, n_delivered: int) -> str:
    """Only an hour without a failure is as high as can be."""
    return _SHARES[n_delivered * (len(_SHARES) - 1) // n_attempts] if n_attempts else _QUIET
