"""The API: answers, knows the key, and has the same time."""

from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime

from dispatcher.cli.checks.finding import Finding, clock_finding, fail, ok, skip, warn
from dispatcher.cli.client import Api, Profile
from dispatcher.cli.refusals import CallFailed, told
from dispatcher.kit import clock


async def look_at_api(who: Profile | None) -> AsyncIterator[Finding]:
    """Give what there is to say of the API. Blocks."""
    if who is None:
        yield skip("api", "no address and key are known", "`dispatcher login`, or give --api-url and --api-key")
        return
    with Api(who) as api:
        began = clock.mono()
        try:
            status, headers, text = api.exchange("GET", "/v1/event_types")
        except CallFailed as fault:
            first, _, rest = str(fault).partition("\n")
            yield fail("api", first, rest.strip() or "check the address")
            return
    milliseconds = (clock.mono() - began) * 1_000
    if status < 400:
        yield ok("api", f"{who.api_url} answers in {milliseconds:.0f} ms, the key from {who.source} is good")
    else:
        first, _, rest = str(told(status, headers, text, who.source)).partition("\n")
        # A key of few scopes, or an operator's, is no fault of the API.
        judge = warn if status == 403 else fail
        yield judge("api", f"{who.api_url}: {first}", " ".join(rest.split()))
    if date := headers.get("date"):
        # The header has whole seconds: on the average half a second was cut off.
        ahead = (parsedate_to_datetime(date) - clock.utcnow()).total_seconds() + 0.5
        yield clock_finding("clock-api", ahead, "the API's")
