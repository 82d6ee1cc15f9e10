import pytest

from dispatcher.cli.bars import bars


@pytest.mark.parametrize(
    ("attempts", "delivered", "bar"),
    [(0, 0, "·"), (3, 0, "▁"), (2, 1, "▄"), (1_000_000, 999_999, "▇"), (1, 1, "█"), (1_000_000, 1_000_000, "█")],
)
def test_an_hour_is_as_high_as_the_share_that_delivered(attempts: int, delivered: int, bar: str) -> None:
    hour = {"attempts": attempts, "delivered": delivered}

    assert bars([hour, hour]) == bar * 2
