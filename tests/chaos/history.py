"""The history checker: what the producer, the endpoints, the database and the faults say, held against the promises.

Pure: everything comes in as values. Times are Unix seconds of one machine.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Final, NamedTuple

_CLOCK_SLACK_SECONDS: Final = 0.01
"""Attempt times are rounded to milliseconds, and reckoned back from the moment of writing."""

_ANSWER_SECONDS: Final = 1.0
"""Longest that an endpoint here takes to answer, generously."""

_LEASE_MARGIN_SECONDS: Final = 3.0
"""A process that lives signs nothing in the last two seconds before it can be taken over; a second is cut."""


class Rule(StrEnum):
    """What can be broken."""

    LOST = "lost"
    OPEN = "still open"
    INVENTED = "invented"
    NOT_SUBSCRIBED = "not subscribed"
    OF_ANOTHER = "another account's"
    TWICE_ACCEPTED = "accepted twice"
    TOO_MANY_DUPLICATES = "more duplicates than were in flight"
    UNEXPLAINED_DUPLICATE = "duplicate without a fault"
    SIGNATURE = "signature"
    BODY = "body"
    ATTEMPT_GAP = "gap in attempts"
    AFTER_SUCCESS = "attempt after success"
    AFTER_TAKEOVER = "sent after it was taken over"
    RATE = "rate"
    TOO_EARLY = "attempt before due"


class Violation(NamedTuple):
    """One broken promise."""

    rule: Rule
    detail: str


class Sent(NamedTuple):
    """A record in the producer's ledger; unacknowledged ones may have arrived or not."""

    event_id: str
    event_type: str
    is_acknowledged: bool
    account: str = ""


class Endpoint(NamedTuple):
    """Who subscribed to what. `path` is its alone; `events` are exact types or end in `.*`."""

    endpoint_id: int
    host: str
    path: str
    events: tuple[str, ...]
    account: str = ""

    def wants(self, event_type: str) -> bool:
        """Tell whether it subscribed to events of this type."""
        return any(event_type.startswith(one[:-1]) if one.endswith(".*") else event_type == one for one in self.events)


class Arrival(NamedTuple):
    """A request as the endpoint had it. `sender` names the process, `status` is what was answered, if anything.

    `signed_at` is its timestamp, whole seconds; by itself the second of its arrival.
    """

    at: float
    path: str
    event_id: str
    attempt_no: int
    digest: str
    status: int | None
    signature: str
    sender: str
    signed_at: int | None = None

    @property
    def is_success(self) -> bool:
        """Tell whether it was answered with 2xx."""
        return self.status is not None and 200 <= self.status < 300


class Attempt(NamedTuple):
    """A row of the attempts."""

    delivery_id: int
    event_id: str
    endpoint_id: int
    number: int
    verdict: str
    started_at: float
    next_at: float | None


KILLED: Final = "kill -9"
"""What a fault is called after which a process sends nothing any more."""


class Fault(NamedTuple):
    """A process killed or frozen: which, when, and how many requests it had in flight or unwritten just then.

    What a killed one had sent may still be on its way then, and comes later.
    """

    sender: str
    what: str
    at: float
    exposed: int

    def all_exposed(self, arrivals: Sequence[Arrival]) -> int:
        """Return the requests that may be repeated for it: those known at once, and those that came afterwards."""
        if self.what != KILLED:
            return self.exposed
        return self.exposed + sum(one.sender == self.sender and one.at > self.at for one in arrivals)


class Deafness(NamedTuple):
    """A time in which a process may not have heard its endpoints' answers: it sends again what was answered then."""

    sender: str
    what: str
    began: float
    ended: float

    def covers(self, arrival: Arrival) -> bool:
        """Tell whether the answer to a request may have been lost in it; one may take `_ANSWER_SECONDS`."""
        return arrival.sender == self.sender and self.began - _ANSWER_SECONDS <= arrival.at <= self.ended


class Limit(NamedTuple):
    """At most `burst + rate * W` requests in every window of W seconds; `jitter_seconds` is the way to the endpoint."""

    rate: float
    burst: float
    jitter_seconds: float = 0.05

    def behind(self, pause_seconds: float) -> "Limit":
        """Return what may arrive in a window behind proxies that held everything up for as long, and then let it go."""
        return self._replace(jitter_seconds=max(self.jitter_seconds, pause_seconds))


@dataclass(frozen=True, slots=True)
class History:
    """Everything there is to judge. `bodies` are digests of the stored events, `open_deliveries` what still waits."""

    sent: Sequence[Sent]
    endpoints: Sequence[Endpoint]
    arrivals: Sequence[Arrival]
    attempts: Sequence[Attempt]
    bodies: Mapping[str, str]
    open_deliveries: frozenset[tuple[str, int]] = frozenset()
    faults: Sequence[Fault] = ()
    deafness: Sequence[Deafness] = ()
    takeovers: Mapping[str, float] = field(default_factory=dict)
    """When a process was seen to have been taken over, by its name."""


@dataclass(slots=True)
class Findings:
    """What the checker found. `n_unheard` requests were sent again because their answer was lost on the way."""

    n_events: int
    n_deliveries: int
    n_duplicates: int
    n_unheard: int
    bound: int
    worst_excess: float
    violations: list[Violation] = field(default_factory=list)

    def count(self, rule: Rule) -> int:
        """Return how often a rule was broken."""
        return sum(one.rule is rule for one in self.violations)


def check(history: History, limit: Limit) -> Findings:
    """Hold a history against every promise; `limit` is what each host may get from all processes together."""
    duplicates, n_unheard = _duplicates(history)
    findings = Findings(
        n_events=len({one.event_id for one in history.sent if one.is_acknowledged}),
        n_deliveries=sum(one.verdict == "delivered" for one in history.attempts),
        n_duplicates=sum(len(more) for more in duplicates.values()),
        n_unheard=n_unheard,
        bound=sum(fault.all_exposed(history.arrivals) for fault in history.faults),
        worst_excess=worst_excess(history, limit),
    )
    for part in (_lost, _foreign, _requests, _numbers, _due, _replaced):
        findings.violations.extend(part(history))
    findings.violations.extend(_judge_duplicates(history, duplicates, findings))
    if findings.worst_excess > 0:
        findings.violations.append(Violation(Rule.RATE, f"{findings.worst_excess:.1f} requests over the limit"))
    return findings


def worst_excess(history: History, limit: Limit) -> float:
    """Return by how many requests the worst window of any host is over the limit; negative when none is.

    Exact over all windows: with f(k) = k - rate * t(k) a window from i to j is over by f(j) - f(i) + 1 - burst, so
    the smallest f so far is all that has to be remembered.
    """
    host_of = {endpoint.path: endpoint.host for endpoint in history.endpoints}
    times: dict[str, list[float]] = defaultdict(list)
    for arrival in history.arrivals:
        times[host_of.get(arrival.path, "")].append(arrival.at)
    allowed = limit.burst + limit.rate * limit.jitter_seconds
    worst = -math.inf
    for of_host in times.values():
        smallest = math.inf
        for number, at in enumerate(sorted(of_host)):
            stands = number - limit.rate * at
            smallest = min(smallest, stands)
            worst = max(worst, stands - smallest + 1 - allowed)
    return worst


def _wanted(history: History) -> Iterator[tuple[Sent, Endpoint]]:
    for sent in {one.event_id: one for one in history.sent if one.is_acknowledged}.values():
        for endpoint in history.endpoints:
            if endpoint.account == sent.account and endpoint.wants(sent.event_type):
                yield sent, endpoint


def _lost(history: History) -> Iterator[Violation]:
    """Every acknowledged event for every endpoint that wants it: arrived and recorded, or ended for a reason."""
    arrived = {(one.event_id, one.path) for one in history.arrivals if one.is_success}
    ended: dict[tuple[str, int], str] = {}
    for attempt in history.attempts:
        if attempt.verdict in ("delivered", "exhausted", "canceled"):
            ended[attempt.event_id, attempt.endpoint_id] = attempt.verdict
    for sent, endpoint in _wanted(history):
        place = (sent.event_id, endpoint.endpoint_id)
        what = f"{sent.event_id} for {endpoint.path}"
        verdict = ended.get(place)
        if place in history.open_deliveries:
            yield Violation(Rule.OPEN, what)
        elif verdict is None:
            yield Violation(Rule.LOST, what)
        elif verdict == "delivered" and (sent.event_id, endpoint.path) not in arrived:
            yield Violation(Rule.LOST, f"{what}: recorded as delivered, never answered with 2xx")


def _foreign(history: History) -> Iterator[Violation]:
    """Nothing reached anybody who did not ask for it, nothing was made up, nothing was accepted twice."""
    sent = {one.event_id: one for one in history.sent}
    endpoints = {endpoint.path: endpoint for endpoint in history.endpoints}
    for event_id, path in {(one.event_id, one.path) for one in history.arrivals}:
        if event_id not in sent:
            yield Violation(Rule.INVENTED, f"{event_id} at {path}")
        elif path not in endpoints or not endpoints[path].wants(sent[event_id].event_type):
            yield Violation(Rule.NOT_SUBSCRIBED, f"{event_id} ({sent[event_id].event_type}) at {path}")
        elif endpoints[path].account != sent[event_id].account:
            yield Violation(Rule.OF_ANOTHER, f"{event_id} of {sent[event_id].account} at {path}")
    deliveries: dict[tuple[str, int], set[int]] = defaultdict(set)
    for attempt in history.attempts:
        deliveries[attempt.event_id, attempt.endpoint_id].add(attempt.delivery_id)
    for (event_id, endpoint_id), numbers in deliveries.items():
        if len(numbers) > 1:
            yield Violation(Rule.TWICE_ACCEPTED, f"{event_id} for endpoint {endpoint_id}: {sorted(numbers)}")


def _requests(history: History) -> Iterator[Violation]:
    """Every request verifies and carries the stored bytes."""
    for one in history.arrivals:
        if one.signature != "valid":
            yield Violation(Rule.SIGNATURE, f"{one.event_id} at {one.path}: {one.signature}")
        if one.digest != history.bodies.get(one.event_id):
            yield Violation(Rule.BODY, f"{one.event_id} at {one.path}")


def _by_delivery(history: History) -> Iterator[tuple[int, list[Attempt]]]:
    """Give each delivery's attempts by number; an interrupted one costs nothing and is made again."""
    found: dict[int, list[Attempt]] = defaultdict(list)
    for attempt in history.attempts:
        if attempt.verdict != "interrupted":
            found[attempt.delivery_id].append(attempt)
    for delivery_id, attempts in found.items():
        yield delivery_id, sorted(attempts, key=lambda one: (one.number, one.started_at))


def _numbers(history: History) -> Iterator[Violation]:
    """Recorded attempts count 1, 2, 3 without a gap or a repeat, and end with the success.

    What overlapping processes sent twice is in the endpoint's log, not here: only one of them may record.
    """
    for delivery_id, attempts in _by_delivery(history):
        numbers = [one.number for one in attempts]
        if numbers != list(range(1, len(numbers) + 1)):
            yield Violation(Rule.ATTEMPT_GAP, f"delivery {delivery_id}: {numbers}")
        if any(one.verdict == "delivered" for one in attempts[:-1]):
            yield Violation(Rule.AFTER_SUCCESS, f"delivery {delivery_id}: {[one.verdict for one in attempts]}")


def _due(history: History) -> Iterator[Violation]:
    """No attempt begins before the one before it said."""
    for delivery_id, attempts in _by_delivery(history):
        for before, after in pairwise(attempts):
            if before.next_at is not None and after.started_at < before.next_at - _CLOCK_SLACK_SECONDS:
                early = before.next_at - after.started_at
                yield Violation(Rule.TOO_EARLY, f"delivery {delivery_id}, attempt {after.number}: by {early:.3f} s")


def _replaced(history: History) -> Iterator[Violation]:
    """Whoever was taken over sends nothing more: its requests are another's now.

    But for one: a process can be stopped between its last look at the lease and the write, and nobody can take that
    write back when it wakes up. Such a request was signed long before the takeover.
    """
    caught: Counter[str] = Counter()
    for one in history.arrivals:
        takeover = history.takeovers.get(one.sender, math.inf)
        if one.at <= takeover:
            continue
        signed_at = one.at if one.signed_at is None else one.signed_at
        caught[one.sender] += 1
        if signed_at > takeover - _LEASE_MARGIN_SECONDS or caught[one.sender] > 1:
            yield Violation(Rule.AFTER_TAKEOVER, f"{one.event_id} at {one.path} by {one.sender}")


def _duplicates(history: History) -> tuple[dict[tuple[str, str], list[Arrival]], int]:
    """Return, for each event and path with several successes, those that were not the one recorded; and how many more.

    The others are those whose answer nobody may have heard: they are sent again, whoever does it. Of the rest the
    recorded one is taken to be the last of an unharmed process: one that was frozen may come after it.
    """
    harmed = {fault.sender for fault in history.faults}
    successes: dict[tuple[str, str], list[Arrival]] = defaultdict(list)
    for arrival in history.arrivals:
        if arrival.is_success:
            successes[arrival.event_id, arrival.path].append(arrival)
    duplicates, n_unheard = {}, 0
    for where, found in successes.items():
        if len(found) == 1:
            continue
        heard = [one for one in found if not any(deaf.covers(one) for deaf in history.deafness)]
        duplicates[where] = sorted(heard, key=lambda one: (one.sender not in harmed, one.at))[:-1]
        n_unheard += len(found) - 1 - len(duplicates[where])
    return duplicates, n_unheard


def _judge_duplicates(
    history: History, duplicates: Mapping[tuple[str, str], Sequence[Arrival]], findings: Findings
) -> Iterator[Violation]:
    """Each success that was not the recorded one came from a process killed or frozen, and they are few enough."""
    exposed: Counter[str] = Counter()
    for fault in history.faults:
        exposed[fault.sender] += fault.all_exposed(history.arrivals)
    unwritten = Counter(arrival.sender for found in duplicates.values() for arrival in found)
    for sender, n in unwritten.items():
        if sender not in exposed:
            yield Violation(Rule.UNEXPLAINED_DUPLICATE, f"{n} successes of {sender} were sent again")
        elif n > exposed[sender]:
            yield Violation(Rule.TOO_MANY_DUPLICATES, f"{n} of {sender}, which had {exposed[sender]} on its hands")
    if findings.n_duplicates > findings.bound:
        yield Violation(Rule.TOO_MANY_DUPLICATES, f"{findings.n_duplicates} in all, bound {findings.bound}")
