"""Who is paused, or was of late and has not answered well since, as far as this process knows."""

from typing import Final

_OWN_WORD_SECONDS: Final = 3.0
"""A pause that this process set holds this long against a reading of Postgres that began before it was written."""

_SAME_SECONDS: Final = 0.05


class PauseBook:
    """Paused hosts or endpoints by number, with the monotonic time at which each pause ends. Time is an argument."""

    def __init__(self) -> None:
        self.until: dict[int, float] = {}
        self.of_late: set[int] = set()
        """Those that are paused, or were and have not answered well since."""
        self._own_words: dict[int, float] = {}

    def note(self, number: int, seconds: float, now: float) -> float:
        """Note a pause that this process was told of, or set itself; return the seconds left of the longest one.

        A breaker's few seconds end no pause that a host asked for: only what all replicas know does.
        """
        until = self.until[number] = max(self.until.get(number, 0.0), now + seconds)
        self._own_words[number] = now
        self.of_late.add(number)
        return until - now

    def adopt(self, seconds_left: dict[int, float], now: float) -> list[int]:
        """Take over what all replicas know; return those whose pause is news here. Own words of late are kept.

        Seconds of 0 or less: the pause is over, but no success came since.
        """
        self._own_words = {name: at for name, at in self._own_words.items() if now - at < _OWN_WORD_SECONDS}
        self.of_late = {*seconds_left, *self._own_words}
        paused = {number: left for number, left in seconds_left.items() if left > 0}
        for number in [n for n in self.until if n not in paused and n not in self._own_words]:
            del self.until[number]
        news = [n for n, left in paused.items() if self.until.get(n, 0.0) < now + left - _SAME_SECONDS]
        for number, left in paused.items():
            if number not in self._own_words:
                self.until[number] = now + left
        return news

    def forget_past(self, now: float) -> None:
        """Drop what is over."""
        for number in [number for number, until in self.until.items() if until <= now]:
            del self.until[number]
