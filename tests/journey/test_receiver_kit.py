"""What customers install, at the other end of a running daemon: signatures verify, repetitions are recognised."""

import shutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from dispatcher.receiver import SqliteInbox, Webhook
from dispatcher.receiver.adapters import aiohttp_view
from tests.contract.test_example_receivers import SERVER, receiving
from tests.journey.world import open_world
from tests.support.daemon import running
from tests.support.servers import DatabaseServer, KafkaServer, fresh_topic, migrated_database

N_EVENTS = 30


class Customer:
    """A customer's receiver. The work fails for some events at first, and some answers are lost on the way back."""

    def __init__(self, inbox: Path) -> None:
        self._inbox = inbox
        self._view: Callable[[web.Request], Awaitable[web.StreamResponse]] | None = None
        self.url = ""
        self.tried: Counter[str] = Counter()
        self.done: list[Webhook] = []
        self.answers: Counter[int] = Counter()
        self.lost: set[str] = set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post("/webhooks", self._receive)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/webhooks"
            yield
        finally:
            await runner.cleanup()

    def trust(self, secret: str) -> None:
        self._view = aiohttp_view(self._work, secret, SqliteInbox(self._inbox))

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        assert self._view is not None
        try:
            answer = await self._view(request)
        except RuntimeError:
            self.answers[500] += 1
            return web.Response(status=500)
        self.answers[answer.status] += 1
        event_id = request.headers["webhook-id"]
        if answer.status == 204 and len(self.done) % 3 == 0 and event_id not in self.lost:
            self.lost.add(event_id)
            return web.Response(status=502)
        return answer

    async def _work(self, webhook: Webhook) -> None:
        self.tried[webhook.id] += 1
        if self.tried[webhook.id] == 1 and len(self.tried) % 5 == 0:
            message = "the queue is full"
            raise RuntimeError(message)
        self.done.append(webhook)


@pytest.mark.timeout(300)
async def test_the_kit_takes_each_event_of_a_running_daemon_once(
    postgres_server: DatabaseServer, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    customer = Customer(tmp_path / "inbox.db")
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=url, topic=topic) as world,
        customer.serving(),
        running(world.daemon()) as daemon,
    ):
        made = await world.api(daemon).add_endpoint(customer.url, ["verification.*"])
        customer.trust(made["secret"])
        sent = [world.good(number) for number in range(N_EVENTS)]

        await world.publish(sent)
        await world.until_settled(N_EVENTS)
        assert await daemon.stop() == 0

    wanted = {message.event_id for message in sent}
    assert Counter(webhook.id for webhook in customer.done) == Counter(wanted)
    assert all(webhook.event()["id"] == webhook.id for webhook in customer.done)
    n_failed = sum(count - 1 for count in customer.tried.values())
    assert n_failed > 0
    assert len(customer.lost) > 0
    # Nothing was refused, and whose answer was lost came again and was not worked on again.
    assert customer.answers == {204: N_EVENTS + len(customer.lost), 500: n_failed}


@pytest.mark.timeout(400)
async def test_every_example_takes_an_event_of_a_running_daemon(
    postgres_server: DatabaseServer, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    languages = [language for language, example in SERVER.items() if shutil.which(example.runtime)]
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=url, topic=topic) as world,
        AsyncExitStack() as stack,
        running(world.daemon()) as daemon,
    ):
        api = world.api(daemon)
        receivers = {}
        for language in languages:
            # Its secret is known once it is registered, its address once it runs.
            made = await api.add_endpoint("http://127.0.0.1:9000/webhooks", ["verification.*"])
            folder = tmp_path / language
            folder.mkdir()
            one = receivers[language] = await stack.enter_async_context(receiving(language, folder, made["secret"]))
            await api.call("PATCH", f"/v1/webhook_endpoints/{made['id']}", {"url": f"{one.url}/webhooks"})
        message = world.good(1)

        await world.publish([message])
        await world.until_settled(1)
        outcomes = await world.fetch("SELECT outcome, status FROM attempt")
        assert await daemon.stop() == 0

    assert [tuple(row) for row in outcomes] == [("delivered", 204)] * len(languages)
    took = f"received {message.event_id} verification.completed"
    assert [language for language, one in receivers.items() if "".join(one.lines).count(took) != 1] == []
