"""What every room of one process shares: made once at the start, handed in by the composition root."""

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final

from prometheus_client import CollectorRegistry

from dispatcher.journal import Journal
from dispatcher.ledger.connections import Link, patiently
from dispatcher.ledger.directory import DirectoryLedger
from dispatcher.ledger.seals import SealLedger
from dispatcher.model.ids import DeliveryIds
from dispatcher.policy.addresses import EgressPolicy, refusal_of
from dispatcher.policy.catalogue import Catalogue
from dispatcher.policy.schema_files import load_catalogue, schema_folder
from dispatcher.policy.urls import PortRules, UrlRules
from dispatcher.resealing import check_ring
from dispatcher.sending.attempt import Sender, SendingOptions
from dispatcher.settings import Http, Settings
from dispatcher.telemetry.metrics import Metrics
from dispatcher.vault import PlaceSeals, Vault

_ANY_HOST: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound


@dataclass(frozen=True, slots=True)
class Services:
    """What every room of this process shares."""

    vault: Vault
    catalogue: Catalogue
    metrics: Metrics
    registry: CollectorRegistry
    delivery_ids: DeliveryIds
    places: PlaceSeals
    journal: Journal
    sender: Sender


def user_agent(http: Http) -> str:
    """Return how requests name themselves: with the address of the API's document where one is known to lead there."""
    name = f"{http.product_name}-Webhooks/1"
    base, (host, port) = http.public_url, http.bind
    if not base and port and host not in _ANY_HOST:
        base = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    return f"{name} (+{base.rstrip('/')}/v1/openapi.json)" if base else name


async def make_services(stack: AsyncExitStack, settings: Settings, control: Link) -> Services:
    """Make them; what has to be closed is left to `stack`. Unavailable when Postgres is away."""
    assert settings.secrets.key_file is not None
    book = DirectoryLedger(control)
    await book.set_default_limits(settings.limits.host_limits())
    id_key = await patiently(book.id_key)
    delivery_ids = DeliveryIds(id_key)
    catalogue = Catalogue.from_document(load_catalogue(schema_folder()))
    registry = CollectorRegistry()
    metrics = Metrics(registry, [one.name for one in catalogue.types])
    options = SendingOptions(
        user_agent=user_agent(settings.http),
        egress=EgressPolicy.parse(settings.egress.allow_cidrs, settings.egress.deny_cidrs),
        allow_http=settings.egress.allow_http,
        allow_localhost=_allows_loopback(settings),
        ca_file=settings.egress.ca_file,
    )
    sender = Sender(options, delivery_ids)
    stack.push_async_callback(sender.aclose)
    vault = Vault.load(settings.secrets.key_file)
    await patiently(lambda: check_ring(SealLedger(control), vault))
    return Services(
        vault,
        catalogue,
        metrics,
        registry,
        delivery_ids,
        PlaceSeals(id_key),
        Journal(metrics, delivery_ids, attempts_logged=settings.log.attempts),
        sender,
    )


def url_rules(settings: Settings) -> UrlRules:
    """Return which addresses may be registered as endpoints."""
    return UrlRules(
        ports=PortRules.parse(settings.egress.ports),
        egress=EgressPolicy.parse(settings.egress.allow_cidrs, settings.egress.deny_cidrs),
        allow_http=settings.egress.allow_http,
        allow_localhost=_allows_loopback(settings),
    )


def _allows_loopback(settings: Settings) -> bool:
    policy = EgressPolicy.parse(settings.egress.allow_cidrs, settings.egress.deny_cidrs)
    return refusal_of("127.0.0.1", policy) is None
