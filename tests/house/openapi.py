"""Writes the API's document, OpenAPI 3.1, from what the server is made of: route table, models, event schemas."""

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dispatcher.api.call import Route
from dispatcher.api.models import ProblemShown
from dispatcher.api.problems import KINDS, PROBLEM_TYPE, ProblemCode
from dispatcher.api.shapes import DIGITS_ALONE, is_whole_number
from dispatcher.model.access import Scope
from dispatcher.policy.catalogue import EventType
from dispatcher.policy.schema_files import API_VERSION, EVENT_URN, EventSchemas

Document = dict[str, Any]

_EVERYWHERE = (
    ProblemCode.MALFORMED_REQUEST,
    ProblemCode.INVALID_QUERY,
    ProblemCode.METHOD_NOT_ALLOWED,
    ProblemCode.RATE_LIMITED,
    ProblemCode.INTERNAL_ERROR,
    ProblemCode.UNAVAILABLE,
    ProblemCode.TIMED_OUT,
)
_WITH_KEY = (ProblemCode.UNAUTHORIZED,)
_WITH_BODY = (
    ProblemCode.INVALID_JSON,
    ProblemCode.JSON_TOO_DEEP,
    ProblemCode.JSON_TOO_LONG,
    ProblemCode.NUMBER_OUT_OF_RANGE,
    ProblemCode.DUPLICATE_MEMBER,
    ProblemCode.REQUEST_TIMEOUT,
    ProblemCode.BODY_TOO_LARGE,
    ProblemCode.UNSUPPORTED_MEDIA_TYPE,
    ProblemCode.EXPECTATION_FAILED,
    ProblemCode.VALIDATION_FAILED,
)
_HEADERS = {
    "Accept": ("What a body may be.", "string"),
    "Allow": ("The methods that there are.", "string"),
    "ETag": ("The version of what the endpoint's owner set, for `If-Match`.", "string"),
    "Idempotent-Replayed": ("`true`: this was answered before, to the same key; else it is left out.", "string"),
    "Location": ("Where it can be read.", "string"),
    "RateLimit": ("How many requests are left (r), and the seconds until all are there again (t).", "string"),
    "RateLimit-Policy": ("How many requests a key has at once (q), and the seconds that refill them (w).", "string"),
    "Retry-After": ("Seconds until it may help to come again.", "integer"),
    "WWW-Authenticate": ("How a key is presented.", "string"),
}
_RATE_HEADERS = ("RateLimit", "RateLimit-Policy")
_REFUSED_WITH = {401: "WWW-Authenticate", 405: "Allow", 415: "Accept", 429: "Retry-After", 503: "Retry-After"}
_SWITCHING = 101
_DESCRIPTION = """\
Register endpoints for webhooks, look at what was delivered to them, and read the events themselves.

Every key belongs to one account and one environment and sees nothing else. Every list takes `limit` and `after` and \
answers with `next`, the place to go on from, or null. Every error is a problem document (RFC 9457) with a stable \
`code` and, for faulty members, a JSON pointer each. Every answer bears `X-Request-Id`, and those to a \
key, refusals too, the `RateLimit` fields. The bodies under `webhooks` are what endpoints get, signed by Standard \
Webhooks 1.0.0.\
"""


def document(routes: Iterable[Route], types: Iterable[EventType], schemas: EventSchemas) -> Document:
    """Return the whole document, in the order of the table and the catalogue."""
    routes = tuple(routes)
    paths: Document = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route)
    types = tuple(types)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Webhook dispatcher", "version": API_VERSION, "description": _DESCRIPTION},
        "paths": paths,
        "webhooks": {event_type.name: _webhook(event_type) for event_type in types},
        "components": {
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, `whd_<environment>_…`."}
            },
            "headers": {
                name: {"description": text, "schema": {"type": kind}} for name, (text, kind) in _HEADERS.items()
            },
            "schemas": _models(routes) | _event_schemas(types, schemas),
        },
    }


def _operation(route: Route) -> Document:
    operation: Document = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "tags": [route.path.split("/")[2]],
        "description": _who(route.scope) + (" An operator's key opens it for all accounts." * route.opens_to_operators),
        "security": [] if route.scope is None else [{"key": []}],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
    }
    if route.body is not None:
        schema = {"$ref": f"#/components/schemas/{route.body.__name__}"}
        is_required = not route.may_lack_body
        operation["requestBody"] = {"required": is_required, "content": {"application/json": {"schema": schema}}}
    answers = {route.status: route.answer, **route.other_answers}
    successes = {str(status): _success(route, status, answers[status]) for status in sorted(answers)}
    operation["responses"] = successes | _refusals(route)
    return operation


def _who(scope: Scope | None) -> str:
    match scope:
        case None:
            return "Needs no key."
        case Scope.OPERATOR:
            return "Needs an operator's key."
        case _:
            return f"Needs a key with the scope `{scope}`."


def _path_parameters(route: Route) -> list[Document]:
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in route.placeholders]


def _query_parameters(route: Route) -> list[Document]:
    parameters = []
    schema = route.query.model_json_schema(ref_template="#/components/schemas/{model}")
    for name, described in schema.get("properties", {}).items():
        one = {key: value for key, value in described.items() if key != "title"}
        if "anyOf" in one:
            # A parameter that is not there has no value: null cannot be written into a query.
            kinds = [kind for kind in one.pop("anyOf") if kind != {"type": "null"}]
            one = one | kinds[0] if len(kinds) == 1 else {**one, "anyOf": kinds}
        if one.get("default", ...) is None:
            del one["default"]
        if is_whole_number(route.query, name):
            one["description"] = "; ".join(filter(None, (one.get("description"), DIGITS_ALONE)))
        required = name in schema.get("required", [])
        parameters.append({"name": name, "in": "query", "required": required, "schema": one})
    return parameters


def _header_parameters(route: Route) -> list[Document]:
    parameters = []
    if route.keeps_answers:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "required": False,
                "description": "The same key with the same body is done once and answered the same for a day, "
                "without what is secret.",
                "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
            }
        )
    if route.has_versions:
        parameters.append(
            {
                "name": "If-Match",
                "in": "header",
                "required": False,
                "description": "Do it only to this version, as an `ETag` named it.",
                "schema": {"type": "string", "pattern": '^"[0-9a-f]{1,16}"$'},
            }
        )
    return parameters


def _success(route: Route, status: int, answer: type[BaseModel] | None) -> Document:
    names = [*_RATE_HEADERS] if status != _SWITCHING else []
    if status == route.status:
        names += [*route.headers, *(["Idempotent-Replayed"] if route.keeps_answers else [])]
    described: Document = {"description": HTTPStatus(status).phrase, "headers": _headers(names)}
    if answer is not None:
        schema = {"$ref": f"#/components/schemas/{answer.__name__}"}
        described["content"] = {"application/json": {"schema": schema}}
    return described


def _refusals(route: Route) -> Document:
    by_status: dict[int, list[ProblemCode]] = {}
    for code in dict.fromkeys(_codes(route)):
        by_status.setdefault(KINDS[code].status.value, []).append(code)
    return {str(status): _refusal(status, by_status[status]) for status in sorted(by_status)}


def _codes(route: Route) -> Iterable[ProblemCode]:
    yield from _EVERYWHERE
    yield from route.problems
    if route.scope is None:
        yield ProblemCode.RATE_LIMITED
    elif route.scope is Scope.OPERATOR:
        yield from (*_WITH_KEY, ProblemCode.NEEDS_OPERATOR_KEY)
    else:
        yield from (*_WITH_KEY, ProblemCode.MISSING_SCOPE, ProblemCode.NEEDS_ACCOUNT_KEY)
    if route.placeholders:
        yield ProblemCode.NOT_FOUND
    if route.body is not None:
        yield from _WITH_BODY
    if route.keeps_answers:
        yield from (ProblemCode.INVALID_IDEMPOTENCY_KEY, ProblemCode.IDEMPOTENCY_CONFLICT)
    if route.has_versions:
        yield from (ProblemCode.INVALID_IF_MATCH, ProblemCode.ETAG_MISMATCH)


def _refusal(status: int, codes: list[ProblemCode]) -> Document:
    described: Document = {
        "description": "; ".join(f"`{code}`: {KINDS[code].title}" for code in codes),
        "content": {PROBLEM_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemShown"}}},
    }
    if status in _REFUSED_WITH:
        described["headers"] = _headers([_REFUSED_WITH[status]])
    elif ProblemCode.REDRIVE_UNDER_WAY in codes:
        described["headers"] = _headers(["Retry-After"])
    return described


def _headers(names: Iterable[str]) -> Document:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in sorted(names)}


def _models(routes: Iterable[Route]) -> Document:
    incoming: set[type[BaseModel]] = set()
    outgoing: set[type[BaseModel]] = {ProblemShown}
    for route in routes:
        incoming |= {model for model in (route.query, route.body) if model is not None}
        outgoing |= {model for model in (route.answer, *route.other_answers.values()) if model is not None}
    wanted = [(model, "validation") for model in incoming | outgoing]
    ordered = sorted(wanted, key=lambda pair: pair[0].__name__)
    _, found = models_json_schema(ordered, ref_template="#/components/schemas/{model}")  # type: ignore[arg-type]
    defined: Document = found["$defs"]
    # What a query is made of stands with the operation.
    queries = {route.query.__name__ for route in routes}
    return {name: defined[name] for name in sorted(defined) if name not in queries}


def _event_schemas(types: Iterable[EventType], schemas: EventSchemas) -> Document:
    envelope = schemas.envelope
    placed = {EVENT_URN: "Event"} | {f"{EVENT_URN}:{one.name}": _event_name(one) for one in types}
    listed = [("Event", envelope), *((_event_name(one), schemas.of_type(one.name)) for one in types)]
    return {name: _moved(schema, name, placed) for name, schema in listed}


def _event_name(event_type: EventType) -> str:
    return f"Event.{event_type.name}"


def _moved(schema: Any, name: str, placed: Mapping[str, str]) -> Any:
    """Return a schema that refers to where things stand in this document, rather than by their own ids."""
    if isinstance(schema, list):
        return [_moved(one, name, placed) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, name, placed) for key, value in schema.items() if key not in {"$schema", "$id"}}
    if isinstance(ref := schema.get("$ref"), str):
        whole, _, fragment = ref.partition("#")
        moved["$ref"] = f"#/components/schemas/{placed[whole] if whole else name}{fragment}"
    return moved


def _webhook(event_type: EventType) -> Document:
    words = "".join(word.capitalize() for word in event_type.name.replace("_", ".").split("."))
    headers = [
        ("webhook-id", {"type": "string", "pattern": "^evt_[a-z0-9_]+$"}, "The event's id, equal in every retry."),
        ("webhook-timestamp", {"type": "integer"}, "Unix seconds of this attempt."),
        ("webhook-signature", {"type": "string"}, "`v1,` and base64 of HMAC-SHA256; one entry per live secret."),
    ]
    return {
        "post": {
            "operationId": f"on{words}",
            "summary": event_type.description,
            "description": event_type.fires,
            "tags": [event_type.group],
            "security": [],
            "parameters": [
                {"name": name, "in": "header", "required": True, "description": text, "schema": schema}
                for name, schema, text in headers
            ],
            "requestBody": {
                "required": True,
                "content": {
                    "application/json": {"schema": {"$ref": f"#/components/schemas/{_event_name(event_type)}"}}
                },
            },
            "responses": {
                "2XX": {"description": "Accepted; anything else is tried again."},
                "410": {"description": "Gone: the endpoint is disabled."},
                "429": {"description": "Slow down; Retry-After is honoured."},
            },
        }
    }
