"""Errors as problem documents (RFC 9457), each with a stable `code`.

    {"type": "urn:dispatcher:problem:url_not_https", "title": "The request has faults", "status": 422,
     "code": "url_not_https", "detail": "...", "request_id": "req_...",
     "errors": [{"pointer": "/url", "code": "url_not_https", "message": "the URL must begin with https://"}]}

`errors` names every faulty field, not only the first: `pointer` (RFC 6901) for a member of the body, `parameter`
for one of the query. No message quotes what was sent.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from dispatcher.model.errors import DispatcherError

PROBLEM_TYPE: Final = "application/problem+json"
MOST_FAULTS: Final = 50
"""Faults told of one request: a body of 256 KiB can hold a hundred thousand."""

NO_HEADERS: Final[Mapping[str, str]] = {}
_COME_AGAIN: Final[Mapping[str, str]] = {"Retry-After": "1"}


class ProblemCode(StrEnum):
    """What went wrong with a request as a whole. Closed, but for the codes of single fields (see `refused`)."""

    MALFORMED_REQUEST = "malformed_request"
    INVALID_JSON = "invalid_json"
    JSON_TOO_DEEP = "json_too_deep"
    JSON_TOO_LONG = "json_too_long"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    DUPLICATE_MEMBER = "duplicate_member"
    INVALID_QUERY = "invalid_query"
    INVALID_CURSOR = "invalid_cursor"
    INVALID_IDEMPOTENCY_KEY = "invalid_idempotency_key"
    INVALID_IF_MATCH = "invalid_if_match"
    UNAUTHORIZED = "unauthorized"
    MISSING_SCOPE = "missing_scope"
    NEEDS_ACCOUNT_KEY = "needs_account_key"
    NEEDS_OPERATOR_KEY = "needs_operator_key"
    KEY_ENDS = "key_ends"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_TIMEOUT = "request_timeout"
    IDEMPOTENCY_CONFLICT = "idempotency_conflict"
    REDRIVEN_BEFORE = "redriven_before"
    REDRIVE_UNDER_WAY = "redrive_under_way"
    ENDPOINT_LIMIT = "endpoint_limit"
    ENDPOINT_NOT_ENABLED = "endpoint_not_enabled"
    REPLAY_RUNNING = "replay_running"
    DELIVERY_PENDING = "delivery_pending"
    DELIVERY_HELD = "delivery_held"
    DELIVERY_ENDED = "delivery_ended"
    ATTEMPTS_USED_UP = "attempts_used_up"
    EVENT_GONE = "event_gone"
    TEST_NOT_KEPT = "test_not_kept"
    ACCOUNT_EXISTS = "account_exists"
    KEY_LIMIT = "key_limit"
    USER_EXISTS = "user_exists"
    USER_LIMIT = "user_limit"
    INVITATION_VOID = "invitation_void"
    ETAG_MISMATCH = "etag_mismatch"
    ROTATION_UNDER_WAY = "rotation_under_way"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    EXPECTATION_FAILED = "expectation_failed"
    VALIDATION_FAILED = "validation_failed"
    RATE_LIMITED = "rate_limited"
    TEST_UNDER_WAY = "test_under_way"
    INTERNAL_ERROR = "internal_error"
    UNAVAILABLE = "unavailable"
    NOT_DELIVERING = "not_delivering"
    NO_KAFKA = "no_kafka"
    TIMED_OUT = "timed_out"


_OF_THE_QUERY: Final = frozenset({ProblemCode.INVALID_QUERY, ProblemCode.INVALID_CURSOR})

PAGED: Final = (ProblemCode.INVALID_CURSOR,)
"""Refusals of every list that comes in pages."""


class _Kind(NamedTuple):
    status: HTTPStatus
    title: str


KINDS: Final[Mapping[ProblemCode, _Kind]] = {
    ProblemCode.MALFORMED_REQUEST: _Kind(HTTPStatus.BAD_REQUEST, "This is not a proper HTTP request"),
    ProblemCode.INVALID_JSON: _Kind(HTTPStatus.BAD_REQUEST, "The body is not JSON"),
    ProblemCode.JSON_TOO_DEEP: _Kind(HTTPStatus.BAD_REQUEST, "The JSON is nested too deeply"),
    ProblemCode.JSON_TOO_LONG: _Kind(HTTPStatus.BAD_REQUEST, "The JSON holds too many values"),
    ProblemCode.NUMBER_OUT_OF_RANGE: _Kind(HTTPStatus.BAD_REQUEST, "The JSON holds a number beyond every range"),
    ProblemCode.DUPLICATE_MEMBER: _Kind(HTTPStatus.BAD_REQUEST, "An object names a member twice"),
    ProblemCode.INVALID_QUERY: _Kind(HTTPStatus.BAD_REQUEST, "The query has faults"),
    ProblemCode.INVALID_CURSOR: _Kind(HTTPStatus.BAD_REQUEST, "The cursor is not one of this list"),
    ProblemCode.INVALID_IDEMPOTENCY_KEY: _Kind(HTTPStatus.BAD_REQUEST, "The idempotency key has faults"),
    ProblemCode.INVALID_IF_MATCH: _Kind(HTTPStatus.BAD_REQUEST, "The If-Match header has faults"),
    ProblemCode.UNAUTHORIZED: _Kind(HTTPStatus.UNAUTHORIZED, "A valid API key is needed"),
    ProblemCode.MISSING_SCOPE: _Kind(HTTPStatus.FORBIDDEN, "The API key may not do this"),
    ProblemCode.NEEDS_ACCOUNT_KEY: _Kind(HTTPStatus.FORBIDDEN, "This needs the key of an account"),
    ProblemCode.NEEDS_OPERATOR_KEY: _Kind(HTTPStatus.FORBIDDEN, "This needs the key of an operator"),
    ProblemCode.KEY_ENDS: _Kind(HTTPStatus.FORBIDDEN, "A key that ends invites nobody"),
    ProblemCode.NOT_FOUND: _Kind(HTTPStatus.NOT_FOUND, "There is no such thing here"),
    ProblemCode.METHOD_NOT_ALLOWED: _Kind(HTTPStatus.METHOD_NOT_ALLOWED, "The method is not allowed here"),
    ProblemCode.REQUEST_TIMEOUT: _Kind(HTTPStatus.REQUEST_TIMEOUT, "The body did not arrive in time"),
    ProblemCode.IDEMPOTENCY_CONFLICT: _Kind(HTTPStatus.CONFLICT, "The idempotency key was used for another request"),
    ProblemCode.REDRIVEN_BEFORE: _Kind(HTTPStatus.CONFLICT, "The record was given to Kafka before"),
    ProblemCode.REDRIVE_UNDER_WAY: _Kind(HTTPStatus.CONFLICT, "A redrive of the record began just now"),
    ProblemCode.ENDPOINT_LIMIT: _Kind(HTTPStatus.CONFLICT, "The account has as many endpoints as it may have"),
    ProblemCode.ENDPOINT_NOT_ENABLED: _Kind(HTTPStatus.CONFLICT, "The endpoint takes no deliveries now"),
    ProblemCode.REPLAY_RUNNING: _Kind(HTTPStatus.CONFLICT, "The endpoint has a replay already"),
    ProblemCode.DELIVERY_PENDING: _Kind(HTTPStatus.CONFLICT, "The delivery is not finished"),
    ProblemCode.DELIVERY_HELD: _Kind(HTTPStatus.CONFLICT, "The delivery is held"),
    ProblemCode.DELIVERY_ENDED: _Kind(HTTPStatus.CONFLICT, "The delivery is finished"),
    ProblemCode.ATTEMPTS_USED_UP: _Kind(HTTPStatus.CONFLICT, "The delivery can be sent no more"),
    ProblemCode.EVENT_GONE: _Kind(HTTPStatus.GONE, "The event is past its retention"),
    ProblemCode.TEST_NOT_KEPT: _Kind(HTTPStatus.CONFLICT, "The delivery was a test, which is sent once"),
    ProblemCode.ROTATION_UNDER_WAY: _Kind(HTTPStatus.CONFLICT, "Two secrets of the endpoint are in force"),
    ProblemCode.ACCOUNT_EXISTS: _Kind(HTTPStatus.CONFLICT, "There is an account with this id"),
    ProblemCode.KEY_LIMIT: _Kind(HTTPStatus.CONFLICT, "There are as many live keys as there may be"),
    ProblemCode.USER_EXISTS: _Kind(HTTPStatus.CONFLICT, "Somebody of this address is there already"),
    ProblemCode.USER_LIMIT: _Kind(HTTPStatus.CONFLICT, "There are as many people as there may be"),
    ProblemCode.INVITATION_VOID: _Kind(HTTPStatus.NOT_FOUND, "The invitation is no good, or not any more"),
    ProblemCode.ETAG_MISMATCH: _Kind(HTTPStatus.PRECONDITION_FAILED, "It was changed meanwhile"),
    ProblemCode.BODY_TOO_LARGE: _Kind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "The body is too large"),
    ProblemCode.UNSUPPORTED_MEDIA_TYPE: _Kind(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "The body must be plain JSON"),
    ProblemCode.EXPECTATION_FAILED: _Kind(HTTPStatus.EXPECTATION_FAILED, "The expectation cannot be met"),
    ProblemCode.VALIDATION_FAILED: _Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "The request has faults"),
    ProblemCode.RATE_LIMITED: _Kind(HTTPStatus.TOO_MANY_REQUESTS, "Too many requests"),
    ProblemCode.TEST_UNDER_WAY: _Kind(HTTPStatus.TOO_MANY_REQUESTS, "A test of the endpoint is under way"),
    ProblemCode.INTERNAL_ERROR: _Kind(HTTPStatus.INTERNAL_SERVER_ERROR, "Something failed on our side"),
    ProblemCode.NOT_DELIVERING: _Kind(HTTPStatus.SERVICE_UNAVAILABLE, "This process sends no requests"),
    ProblemCode.NO_KAFKA: _Kind(HTTPStatus.SERVICE_UNAVAILABLE, "This process publishes no records"),
    ProblemCode.UNAVAILABLE: _Kind(HTTPStatus.SERVICE_UNAVAILABLE, "We cannot serve this right now"),
    ProblemCode.TIMED_OUT: _Kind(HTTPStatus.SERVICE_UNAVAILABLE, "We could not finish this in time"),
}


class Fault(NamedTuple):
    """One faulty field. `where` is a JSON pointer into the body or the name of a query parameter.

    `nearest` are known values that look like the one sent.
    """

    where: str
    code: str
    message: str
    nearest: tuple[str, ...] | None = None

    def show(self, place: str) -> dict[str, Any]:
        """Return the member of `errors`; `place` is `pointer` or `parameter`."""
        shown: dict[str, Any] = {place: self.where, "code": self.code, "message": self.message}
        if self.nearest is not None:
            shown["nearest"] = self.nearest
        return shown


class Problem(DispatcherError):
    """A refusal on its way to the client. `code` is one of ProblemCode or, for 422, a field's own code.

    Every 503 says when to come again: in a second, unless `headers` know better.
    """

    def __init__(
        self,
        kind: ProblemCode,
        detail: str = "",
        *,
        code: str | None = None,
        faults: Sequence[Fault] = (),
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        super().__init__(detail or KINDS[kind].title)
        self.kind = kind
        self.code = code or kind.value
        self.detail = detail
        self.faults = tuple(faults)
        is_passing = KINDS[kind].status is HTTPStatus.SERVICE_UNAVAILABLE
        self.headers = {**_COME_AGAIN, **headers} if is_passing else headers

    @property
    def status(self) -> int:
        """Return the HTTP status."""
        return KINDS[self.kind].status.value

    def show(self, request_id: str) -> dict[str, Any]:
        """Return the problem document."""
        shown: dict[str, Any] = {
            "type": f"urn:dispatcher:problem:{self.code}",
            "title": KINDS[self.kind].title,
            "status": self.status,
            "code": self.code,
        }
        if self.detail:
            shown["detail"] = self.detail
        shown["request_id"] = request_id
        if self.faults:
            place = "parameter" if self.kind in _OF_THE_QUERY else "pointer"
            shown["errors"] = [fault.show(place) for fault in self.faults[:MOST_FAULTS]]
        return shown


def refused(faults: Sequence[Fault]) -> Problem:
    """Return the problem of a body whose fields break our rules.

    When all faults share one code, the problem has it too: `url_not_https` rather than `validation_failed`.
    """
    codes = {fault.code for fault in faults}
    code = codes.pop() if len(codes) == 1 else None
    detail = "; ".join(dict.fromkeys(fault.message for fault in faults[:3]))
    return Problem(ProblemCode.VALIDATION_FAILED, detail, code=code, faults=faults)


def not_found() -> Problem:
    """Return the one answer to everything that is not there, or not the caller's: nobody can tell which."""
    return Problem(ProblemCode.NOT_FOUND)


def pointer(parts: Sequence[str | int]) -> str:
    """Return the JSON pointer of a path, the empty string for the whole document."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)
