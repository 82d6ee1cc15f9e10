import json
import random

import pytest

from dispatcher.receiver import supersedes
from tests.support.record_files import SCHEMAS


def event(revision: int) -> dict[str, object]:
    return {"data": {"verification": {"id": "ver_1", "revision": revision}}}


@pytest.mark.parametrize(("revision", "kept", "is_news"), [(1, None, True), (8, 7, True), (7, 7, False), (6, 7, False)])
def test_only_a_higher_revision_is_news(revision: int, kept: int | None, is_news: bool) -> None:
    assert supersedes(event(revision), kept) is is_news


def test_what_is_about_no_verification_is_always_news() -> None:
    ping = json.loads((SCHEMAS / "examples" / "good" / "webhook.ping.json").read_bytes())

    assert supersedes(ping, None)
    assert supersedes(ping, 7)


def test_in_any_order_the_highest_revision_is_kept() -> None:
    revisions = [*range(1, 20), 5, 19]
    for seed in range(20):
        random.Random(seed).shuffle(revisions)
        kept: int | None = None
        for revision in revisions:
            if supersedes(event(revision), kept):
                kept = revision
        assert kept == 19
