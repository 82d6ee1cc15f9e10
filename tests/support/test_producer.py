import json

import pytest
from aiokafka.errors import MessageSizeTooLargeError

from dispatcher.model.ids import event_id_of, show_event_id
from tests.support.producer import BAD_VALUES, an_event, publishing
from tests.support.servers import KafkaServer, fresh_topic

ACCOUNT = "acct_5hQ2vN8rTb"


def test_the_published_rule_gives_our_own_ids() -> None:
    event = an_event(7, account=ACCOUNT)

    assert event.public_id == show_event_id(event_id_of(event.source, event.id))


def test_binary_and_structured_say_the_same() -> None:
    event = an_event(7, account=ACCOUNT, type="verification.started")

    value, headers = event.binary()
    document = json.loads(event.structured()[0])

    assert json.loads(value) == document.pop("data") == event.data
    assert document.pop("datacontenttype") == dict(headers)["content-type"].decode()
    assert {f"ce_{name}": text.encode() for name, text in document.items()}.items() <= dict(headers).items()
    assert event.data["verification"]["id"] == event.subject


def test_more_checks_make_a_bigger_value() -> None:
    value, _ = an_event(7, account=ACCOUNT, n_checks=6).binary()

    assert 900 < len(value) < 1100


async def test_the_ledger_says_where_each_record_lies(kafka_server: KafkaServer) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    async with publishing(kafka_server.bootstrap, topic) as producer:
        await producer.publish_all(an_event(number, account=ACCOUNT) for number in range(30))
        repeated = await producer.publish(an_event(3, account=ACCOUNT), mode="structured")
        bad = [await producer.publish_bad(number) for number in range(len(BAD_VALUES))]

    assert len(producer.ledger) == 30 + 1 + len(BAD_VALUES)
    assert len(producer.acknowledged_ids()) == 30
    assert repeated.event_id == producer.ledger[3].event_id
    assert repeated.partition == producer.ledger[3].partition
    assert {one.event_id for one in bad} == {None}
    assert len({(one.partition, one.offset) for one in producer.ledger}) == len(producer.ledger)


async def test_a_refused_record_is_in_the_ledger_without_a_place(kafka_server: KafkaServer) -> None:
    topic = await fresh_topic(kafka_server.bootstrap)
    async with publishing(kafka_server.bootstrap, topic, max_request_size=200) as producer:
        with pytest.raises(MessageSizeTooLargeError):
            await producer.publish(an_event(1, account=ACCOUNT))

    assert not producer.ledger[0].is_acknowledged
    assert producer.acknowledged_ids() == set()
