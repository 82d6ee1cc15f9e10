"""The way out: what policy refuses, whether names resolve, and whether given URLs can be reached. Sends no request."""

from collections.abc import AsyncIterator, Sequence
from typing import Final

from dispatcher.cli.checks.finding import Finding, fail, ok, warn
from dispatcher.cli.checks.places import Places
from dispatcher.model.errors import ConfigurationError
from dispatcher.model.outcome import OutcomeKind
from dispatcher.policy.addresses import EgressPolicy, refusal_of
from dispatcher.policy.urls import EndpointUrl, PortRules, UrlRefusal, UrlRules, read_url
from dispatcher.sending.dial import Dialer, Place, make_tls_context
from dispatcher.sending.faults import AttemptFailed
from dispatcher.sending.resolver import Resolver
from dispatcher.sending.wire import DEFAULT_BUDGETS

_METADATA: Final = ("169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254")
_PRIVATE: Final = ("10.0.0.1", "172.16.0.1", "192.168.0.1", "127.0.0.1", "::1", "fd00::1")


async def look_at_egress(places: Places, *, name: str, urls: Sequence[str]) -> AsyncIterator[Finding]:
    """Give what there is to say of the way out. `name` is a public host's; `urls` are dialled, TLS included."""
    egress = places.settings.egress
    try:
        policy = EgressPolicy.parse(egress.allow_cidrs, egress.deny_cidrs)
        tls = make_tls_context(egress.ca_file)
    except (ConfigurationError, OSError) as fault:
        yield fail("egress", str(fault), "mend DISPATCHER_EGRESS__*")
        return
    for finding in policy_findings(policy):
        yield finding
    allows_loopback = refusal_of("127.0.0.1", policy) is None
    resolver = Resolver(policy, allow_localhost=allows_loopback)
    dialer = Dialer(policy, resolver, tls, DEFAULT_BUDGETS)
    yield await _name(dialer, name)
    rules = UrlRules(PortRules.parse(egress.ports), egress.allow_http, allows_loopback, policy)
    for url in urls:
        yield await _url(dialer, url, rules)


def policy_findings(policy: EgressPolicy) -> list[Finding]:
    """Judge which addresses nobody should reach through us."""
    findings = []
    if opened := [address for address in _METADATA if refusal_of(address, policy) is None]:
        findings.append(fail("egress-metadata", f"not refused: {', '.join(opened)}", "report this: it is a bug"))
    else:
        findings.append(ok("egress-metadata", f"refused: {', '.join(_METADATA)}"))
    opened = [address for address in _PRIVATE if refusal_of(address, policy) is None]
    if opened:
        cure = "right for trials on one machine; elsewhere take them out of DISPATCHER_EGRESS__ALLOW_CIDRS"
        findings.append(warn("egress-private", f"allowed: {', '.join(opened)}", cure))
    else:
        findings.append(ok("egress-private", f"refused: {', '.join(_PRIVATE)}"))
    return findings


async def _name(dialer: Dialer, name: str) -> Finding:
    try:
        addresses = await dialer.addresses_of(name)
    except AttemptFailed as fault:
        if fault.kind is OutcomeKind.ADDRESS_FORBIDDEN:
            cure = "a resolver that answers so may be rewriting names; look at /etc/resolv.conf"
            return warn("dns", f"{name}: {fault.reason}", cure)
        cure = "check /etc/resolv.conf and the way to its servers; without names no customer is reached"
        return warn("dns", f"{name} does not resolve: {fault.reason}", cure)
    return ok("dns", f"{name} is {', '.join(one.text for one in addresses)}")


async def _url(dialer: Dialer, text: str, rules: UrlRules) -> Finding:
    url = read_url(text, rules)
    if isinstance(url, UrlRefusal):
        return fail("reach", f"{text}: {url.message}", "such a URL cannot be an endpoint; see DISPATCHER_EGRESS__*")
    try:
        connection, phases = await dialer.dial(_place(url))
    except AttemptFailed as fault:
        cure = "the firewall, the name or the certificate of that host; the same would befall its deliveries"
        return fail("reach", f"{url.url}: {fault.kind}: {fault.reason}", cure)
    connection.close()
    steps = [("DNS", phases.dns), ("TCP", phases.connect), ("TLS", phases.tls)]
    told = ", ".join(f"{step} {seconds * 1_000:.0f} ms" for step, seconds in steps if seconds is not None)
    return ok("reach", f"{url.url}: {told}")


def _place(url: EndpointUrl) -> Place:
    return Place("doctor", url.scheme == "https", url.hostname, url.port)
