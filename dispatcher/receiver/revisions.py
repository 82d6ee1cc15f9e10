"""Which of two events about one verification is the later one: events may arrive out of order."""

from collections.abc import Mapping
from typing import Any


def supersedes(event: Mapping[str, Any], kept: int | None) -> bool:
    """Tell whether an event is news to somebody who keeps revision `kept` of its verification (None: nothing yet).

    Keep `event["data"]["verification"]["revision"]` with what you store of a verification, and drop what is not news:

        UPDATE verification SET status = $2, revision = $3 WHERE id = $1 AND revision < $3

    An event that is about no verification, like `webhook.ping`, is news always.
    """
    verification = event["data"].get("verification")
    return verification is None or kept is None or int(verification["revision"]) > kept
