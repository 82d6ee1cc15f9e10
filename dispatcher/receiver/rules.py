"""The rules that a request can break, and the cures of those that concern its body."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Rule(StrEnum):
    """What a request can break; closed."""

    HEADER_MISSING = "header_missing"
    HEADER_REPEATED = "header_repeated"
    HEADERS_FOLDED = "headers_folded"
    HEADER_MALFORMED = "header_malformed"
    TIMESTAMP_IN_MILLISECONDS = "timestamp_in_milliseconds"
    TIMESTAMP_TOO_OLD = "timestamp_too_old"
    TIMESTAMP_TOO_NEW = "timestamp_too_new"
    NO_KNOWN_SIGNATURE = "no_known_signature"
    SECRET_URL_SAFE = "secret_url_safe"  # noqa: S105 - a rule, no secret
    SECRET_MALFORMED = "secret_malformed"  # noqa: S105 - a rule, no secret
    SECRET_NOT_DECODED = "secret_not_decoded"  # noqa: S105 - a rule, no secret
    WRONG_SECRET = "wrong_secret"  # noqa: S105 - a rule, no secret
    BODY_TRAILING_NEWLINE = "body_trailing_newline"
    BODY_NEWLINE_LOST = "body_newline_lost"
    BODY_LINE_ENDS = "body_line_ends"
    BODY_BYTE_ORDER_MARK = "body_byte_order_mark"
    BODY_REWRITTEN = "body_rewritten"
    BODY_IN_BASE64 = "body_in_base64"
    BODY_QUOTED = "body_quoted"
    BODY_WRONG_CHARSET = "body_wrong_charset"
    BODY_CUT = "body_cut"
    BODY_NOT_JSON = "body_not_json"
    ID_MISMATCH = "id_mismatch"


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken rule: what was found, and the cure."""

    rule: Rule
    what: str
    cure: str


RAW_BODY: Final = "Verify the raw body, before any JSON parser, and never what a parser wrote again."
BODY_CURES: Final = {
    Rule.BODY_TRAILING_NEWLINE: (
        "the body ends with a line break that was not signed",
        "Keep the bytes as they came: editors and `echo` add a line break; use `printf %s` or `curl --data-binary`.",
    ),
    Rule.BODY_NEWLINE_LOST: (
        "the body lost the line break at its end",
        "Keep the bytes as they came: do not strip the body; `curl -d @file` does, `--data-binary @file` does not.",
    ),
    Rule.BODY_LINE_ENDS: (
        "the line ends inside the body were changed",
        "Read and write the body as bytes, never in text mode.",
    ),
    Rule.BODY_BYTE_ORDER_MARK: (
        "a byte order mark was put before the body",
        "Save the body as bytes, or as UTF-8 without a byte order mark.",
    ),
    Rule.BODY_REWRITTEN: ("the body was parsed and written again: same data, other bytes", RAW_BODY),
    Rule.BODY_IN_BASE64: (
        "the body is in base64, as API gateways hand it on",
        "Decode it first: look at isBase64Encoded.",
    ),
    Rule.BODY_QUOTED: (
        "the body is a JSON text that holds the real one",
        "Undo the quoting before verifying. " + RAW_BODY,
    ),
    Rule.BODY_WRONG_CHARSET: (
        "the body was read as Latin-1 and written as UTF-8",
        "Verify the bytes, before they are decoded; the body is UTF-8.",
    ),
}
