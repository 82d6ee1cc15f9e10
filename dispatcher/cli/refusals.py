"""What the API refuses, in words for the person at the terminal: what was wrong, and what to do."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import orjson

from dispatcher.cli.table import plain
from dispatcher.model.errors import DispatcherError


class CallFailed(DispatcherError):
    """The API refused a call or cannot be reached. `status` is None when it did not answer.

    `retry_after` are the seconds that a 429 asks for, None for everything else.
    """

    def __init__(
        self, message: str, status: int | None = None, code: str | None = None, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after = retry_after


_CURES: Final[Mapping[str, str]] = {
    "unauthorized": (
        "The key from {source} is mistyped, revoked, or of another installation. "
        "Make one with `dispatcher keys create`, then give --api-key or keep it with `dispatcher login`."
    ),
    "missing_scope": (
        "Make a key with it: `dispatcher keys create --account ACCOUNT --scope SCOPE …` "
        "(the key used came from {source})."
    ),
    "needs_account_key": (
        "The key from {source} is an operator's. Use a key of the account: "
        "`dispatcher keys create --account ACCOUNT`, then --api-key."
    ),
    "needs_operator_key": (
        "The key from {source} belongs to an account. Make an operator's: `dispatcher keys create --operator`."
    ),
    "header_value_needed": (
        "Give all headers again with --header 'Name: value', or drop them with --header ''; "
        "a key that may change an endpoint shall not read them at a host of its own."
    ),
    "user_exists": "`dispatcher users renew EMAIL` invites them again, `dispatcher users remove EMAIL` removes them.",
    "invitation_void": (
        "Ask who invited you for a new one: `dispatcher users renew` makes it. "
        "If you did not use this one yourself, tell them: somebody else may have."
    ),
    "not_found": "Nothing of that id is visible to the key from {source}; ids belong to one account and environment.",
}


def told(status: int, headers: Mapping[str, str], text: bytes, source: str) -> CallFailed:
    """Return the failure that an answer from 400 on stands for. `headers` have lower-case names."""
    problem = _problem(text)
    wait = headers.get("retry-after", "")
    retry_after = int(wait) if status == 429 and wait.isdecimal() else None
    if problem is None:
        lines = [f"the API answered {status}", *_cure(status, headers, None, source)]
        return CallFailed(_joined(lines), status, retry_after=retry_after)
    code = str(problem["code"])
    lines = [f"{problem['title']} ({status}, {code})"]
    faults = [one for one in problem.get("errors") or [] if isinstance(one, dict)]
    if problem.get("detail") and not faults:
        lines.append(f"  {problem['detail']}")
    lines += [_fault(one) for one in faults]
    lines += _cure(status, headers, problem, source)
    return CallFailed(_joined(lines), status, code, retry_after=retry_after)


def _joined(lines: Iterable[str]) -> str:
    """Return the lines as one text; what a server wrote into one of them moves no cursor and makes no line."""
    return "\n".join(plain(line) for line in lines)


def _problem(text: bytes) -> dict[str, Any] | None:
    try:
        problem = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    is_one = isinstance(problem, dict) and {"title", "code"} <= problem.keys()
    return problem if is_one else None


def _fault(fault: Mapping[str, Any]) -> str:
    where = fault.get("pointer") or fault.get("parameter") or "the body"
    return f"  {where}: {fault.get('message', '')}"


def _cure(status: int, headers: Mapping[str, str], problem: Mapping[str, Any] | None, source: str) -> list[str]:
    if status == 429:
        wait = headers.get("retry-after")
        return [f"  Too many calls; try again in {wait} seconds." if wait else "  Too many calls; try again later."]
    if status >= 500:
        number = (problem or {}).get("request_id") or headers.get("x-request-id")
        named = f" Its log knows the request as {number}." if number else ""
        return [f"  The fault is on the dispatcher's side: try again, then ask `dispatcher doctor`.{named}"]
    cure = _CURES.get(str((problem or {}).get("code")))
    return [] if cure is None else ["  " + cure.format(source=source)]
