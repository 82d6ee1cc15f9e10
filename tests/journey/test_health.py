"""What an account hears of its endpoints' trouble: signed events, at the endpoints that asked for them."""

import json
from pathlib import Path

import pytest

from tests.journey.world import open_world
from tests.support.daemon import running
from tests.support.servers import DatabaseServer, KafkaServer, fresh_topic, migrated_database
from tests.support.sink import Sink, Step


@pytest.mark.timeout(300)
async def test_an_endpoint_that_is_gone_and_a_delivery_given_up_reach_the_endpoint_that_asked(
    postgres_server: DatabaseServer, kafka_server: KafkaServer, tmp_path: Path
) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    async with (
        migrated_database(postgres_server) as url,
        open_world(tmp_path, bootstrap=kafka_server.bootstrap, database_url=url, topic=topic) as world,
        Sink.serving() as sink,
        running(world.daemon()) as daemon,
    ):
        api = world.api(daemon)
        gone = await api.add_endpoint(sink.url("/gone"), ["verification.*", "endpoint.*"])
        broken = await api.add_endpoint(sink.url("/broken"), ["verification.*"], schedule=[0])
        watching = await api.add_endpoint(sink.url("/watching"), ["endpoint.*", "delivery.exhausted"])
        await api.add_endpoint(sink.url("/everything"), ["*"])
        sink.script("/gone", [Step(status=410, body="no such hook")])
        sink.script("/broken", [Step(status=500, headers=(("X-Trace", "7"),), body="ouch")])
        sink.verify("/watching", watching["secret"])
        event = world.good(1)

        await world.publish([event])
        await sink.arrival(2, path="/watching", seconds=40)
        await sink.arrival(1, path="/everything", seconds=40)

        told = sink.received("/watching")
        assert {request.signature for request in told} == {"valid"}
        bodies = {body["type"]: body["data"] for body in (json.loads(request.body) for request in told)}
        assert bodies["endpoint.disabled"]["endpoint"]["id"] == gone["id"]
        assert bodies["endpoint.disabled"]["endpoint"]["disabled_reason"] == "gone"
        assert bodies["delivery.exhausted"]["delivery"]["endpoint_id"] == broken["id"]
        assert bodies["delivery.exhausted"]["delivery"]["event_id"] == event.event_id
        shown = await api.call("GET", f"/v1/webhook_endpoints/{gone['id']}")
        assert (shown["status"], shown["disabled_reason"]) == ("disabled", "gone")
        assert [len(sink.received(path)) for path in ("/gone", "/everything")] == [1, 1]
        answers = await world.fetch("SELECT body, headers, is_cut FROM response WHERE body = 'ouch'")
        assert [(row["body"], row["is_cut"]) for row in answers] == [(b"ouch", False)]
        assert ["X-Trace", "7"] in json.loads(answers[0]["headers"])
        assert await daemon.stop() == 0
