"""What the shell offers at the tab key: event types from the schemas, closed lists, endpoint ids from the API."""

from collections.abc import Iterator
from typing import Any

from dispatcher.model.errors import DispatcherError


def event_types(incomplete: str) -> Iterator[tuple[str, str]]:
    """Give the types that begin so, with their descriptions."""
    for one in _catalogue():
        if one.name.startswith(incomplete):
            yield one.name, one.description


def subscriptions(incomplete: str) -> Iterator[tuple[str, str]]:
    """Give types and groups that begin so."""
    yield from event_types(incomplete)
    for group in sorted({one.group for one in _catalogue()}):
        if f"{group}.*".startswith(incomplete):
            yield f"{group}.*", f"every type of {group}"


def delivery_states(incomplete: str) -> list[str]:
    """Return the states of a delivery that begin so."""
    from dispatcher.model.delivery import DeliveryState

    return [state.value for state in DeliveryState if state.value.startswith(incomplete)]


def outcomes(incomplete: str) -> list[str]:
    """Return the outcomes, and the classes of them, that begin so."""
    from dispatcher.model.outcome import OutcomeKind

    names = ("2xx", "3xx", "4xx", "5xx", "no_answer", *OutcomeKind)
    return [str(name) for name in names if name.startswith(incomplete)]


def endpoint_ids(ctx: Any, incomplete: str) -> Iterator[tuple[str, str]]:
    """Give the caller's endpoints that begin so, with their URLs; nothing when the API cannot be asked."""
    yield from _ids(ctx, incomplete, "/v1/webhook_endpoints", "url")


def user_ids(ctx: Any, incomplete: str) -> Iterator[tuple[str, str]]:
    """Give the people of the caller's account whose ids begin so, with their addresses; nothing as `endpoint_ids`."""
    yield from _ids(ctx, incomplete, "/v1/users", "email")


def _ids(ctx: Any, incomplete: str, path: str, member: str) -> Iterator[tuple[str, str]]:
    from dispatcher.cli.client import Api, profile

    options = (ctx.params.get(name) for name in ("api_url", "api_key", "profile_name", "env"))
    try:
        with Api(profile(*options)) as api:
            for one in api.rows(path, 50):
                if one["id"].startswith(incomplete):
                    yield one["id"], one[member]
    except DispatcherError:
        return


def _catalogue() -> Any:
    from dispatcher.policy.catalogue import Catalogue
    from dispatcher.policy.schema_files import load_catalogue, schema_folder

    return Catalogue.from_document(load_catalogue(schema_folder())).types
