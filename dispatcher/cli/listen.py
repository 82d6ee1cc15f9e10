"""`dispatcher listen`: forward events to a program on this machine, without a tunnel."""

import asyncio
import ipaddress
import secrets
import signal
from typing import TYPE_CHECKING, Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit

import typer

from dispatcher import __version__
from dispatcher.cli.asking import YesOption, demand
from dispatcher.cli.client import ApiKeyOption, ApiUrlOption, Environment, Profile, ProfileOption, profile
from dispatcher.cli.completing import subscriptions
from dispatcher.cli.exchange import print_lines
from dispatcher.cli.filters import instant
from dispatcher.cli.output import Form, FormOption, say, write_line
from dispatcher.cli.table import plain
from dispatcher.kit import clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import aiohttp

    from dispatcher.cli.forwarding import Answer, Known
    from dispatcher.cli.listening import Wish

_EVENT_WIDTH: Final = 30


def listen(
    forward_to: Annotated[
        str | None,
        typer.Option("--forward-to", metavar="URL", help="Where to send, like http://localhost:3000/webhooks."),
    ] = None,
    execute: Annotated[
        str | None, typer.Option("--exec", metavar="COMMAND", help="Run this instead, with the body on its input.")
    ] = None,
    events: Annotated[
        list[str] | None,
        typer.Option("--events", "-e", help="Type, group, or '*' (all). Repeat it.", autocompletion=subscriptions),
    ] = None,
    replay_last: Annotated[int, typer.Option(min=0, max=100, help="Begin so many events ago.")] = 0,
    since: Annotated[
        str | None, typer.Option(help="Begin with what came in from then on: 1h, or 2026-11-03T09:00:00Z.")
    ] = None,
    secret: Annotated[str | None, typer.Option(help="Sign with this whsec_… secret; a fresh one by itself.")] = None,
    window: Annotated[int, typer.Option(min=1, max=256, help="Requests under way at once.")] = 16,
    live: Annotated[bool, typer.Option("--live", help="Listen to live events; asks first.")] = False,
    allow_remote: Annotated[bool, typer.Option("--allow-remote", help="Forward to another machine, too.")] = False,
    yes: YesOption = False,
    api_url: ApiUrlOption = None,
    api_key: ApiKeyOption = None,
    profile_name: ProfileOption = None,
    print_json: Annotated[bool, typer.Option("--print-json", help="Print each event's body, too.")] = False,
    output: FormOption = Form.TABLE,
) -> None:
    """Forward events to a program on this machine, signed as in production. No tunnel and no open port is needed.

    A cut connection comes back by itself and loses no event. Listening takes nothing away from your endpoints: they
    get their own deliveries. On a terminal, the key r forwards the last event once more and q quits.

    Example: dispatcher listen --forward-to http://localhost:3000/webhooks
    Example: dispatcher listen --forward-to http://localhost:3000/webhooks -e 'verification.*' --replay-last 5
    Example: dispatcher listen --forward-to http://localhost:3000/webhooks --since 1h -o jsonl
    Example: dispatcher listen --exec 'jq .type'
    """
    from dispatcher.cli.listening import Wish
    from dispatcher.policy.signing import NEW_KEY_BYTES, parse_secret, show_secret

    if since is not None and replay_last:
        message = "goes without --replay-last"
        raise typer.BadParameter(message, param_hint="--since")
    if (forward_to is None) == (execute is None):
        message = "give --forward-to or --exec, one of them"
        raise typer.BadParameter(message)
    if forward_to is not None:
        _check_target(forward_to, allow_remote=allow_remote)
    environment = Environment.LIVE if live else Environment.TEST
    who = profile(api_url, api_key, profile_name, environment)
    key = secrets.token_bytes(NEW_KEY_BYTES) if secret is None else parse_secret(secret)
    if key is None:
        message = "is not a whsec_… secret"
        raise typer.BadParameter(message, param_hint="--secret")
    if live:
        demand(f"Forward live events of real people to {forward_to or execute}?", yes=yes)
    if secret is None:
        say(f"signing secret, for this session: {show_secret(key)}")
    wish = Wish(tuple(events or ("*",)), replay_last, window, since and instant(since, "--since"))
    way = _Way(forward_to, execute, key)
    asyncio.run(_listen(who, way, wish, _Tally(output, print_json=print_json)))


def _check_target(url: str, *, allow_remote: bool) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        message = "must look like http://localhost:3000/webhooks"
        raise typer.BadParameter(message, param_hint="--forward-to")
    if not (allow_remote or _is_here(parts.hostname)):
        message = f"{parts.hostname} is another machine: events would leave this one. Give --allow-remote to mean it"
        raise typer.BadParameter(message, param_hint="--forward-to")


def _is_here(hostname: str) -> bool:
    try:
        return ipaddress.ip_address(hostname).is_loopback
    except ValueError:
        return hostname == "localhost" or hostname.endswith(".localhost")


class _Way(NamedTuple):
    """Where events go: to a URL, or into a command; and what they are signed with."""

    url: str | None
    command: str | None
    key: bytes

    def deliver(self, session: "aiohttp.ClientSession") -> "Callable[[Known], Awaitable[int]]":
        from dispatcher.cli.executing import Run
        from dispatcher.cli.forwarding import Envelope, Post

        envelope = Envelope(self.key, f"Dispatcher-Listen/{__version__}")
        return Run(self.command or "", envelope) if self.url is None else Post(session, self.url, envelope)


async def _listen(who: Profile, way: _Way, wish: "Wish", tally: "_Tally") -> None:
    """Listen until a key or a signal says to stop."""
    import aiohttp

    from dispatcher.cli.forwarding import Forwarder, Relay
    from dispatcher.cli.keypress import keys_pressed
    from dispatcher.cli.listening import Listener
    from dispatcher.kit.supervise import spawn

    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        relay = Relay(Forwarder(way.deliver(session), on_answer=tally.show))
        listener = Listener(session, who, wish, relay, say=say)
        with keys_pressed({"r": relay.repeat_last, "q": stop.set}, hung_up=stop.set) as on_terminal:
            keys = "r repeats the last event, q quits" if on_terminal else "Ctrl-C ends"
            say(f"forwarding to {way.url or way.command} ({keys})")
            waits = {spawn(listener.run(), name="listen"), spawn(stop.wait(), name="stop")}
            try:
                done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in waits:
                    task.cancel()
                await asyncio.wait(waits)
                await relay.aclose()
    say(f"{tally.n_events} events forwarded, {tally.n_failures} not answered with 2xx")


class _Tally:
    """Prints a line for each answer, and counts."""

    def __init__(self, output: Form, *, print_json: bool) -> None:
        self.n_events = self.n_failures = 0
        self._output = output
        self._print_json = print_json

    def show(self, event: "Known", answer: "Answer", is_again: bool) -> None:
        self.n_events += 1
        is_good = answer.status is not None and 200 <= answer.status < 300
        self.n_failures += not is_good
        now = clock.utcnow()
        if self._output is Form.TABLE:
            said = str(answer.status) if answer.status is not None else plain(answer.reason or "no answer")
            again = "  again" if is_again else ""
            kind = plain(event.event_type).ljust(_EVENT_WIDTH)
            when = now.astimezone().strftime("%H:%M:%S")
            typer.echo(f"{when}  {kind}  {plain(event.event_id)} -> {said}  {answer.duration_ms} ms{again}")
            if self._print_json:
                print_lines(event.body.decode("utf-8", "replace"))
            return
        row: dict[str, Any] = {"at": now, "event_id": event.event_id, "type": event.event_type, **answer._asdict()}
        if self._print_json:
            row["body"] = event.body.decode("utf-8", "replace")
        write_line({**row, "again": is_again})
