"""What comes in was written by others: it may cost messages, but never the link."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.errors import LinkDown
from agent.mqtt.inbox import MAX_PAYLOAD_BYTES, MAX_WAITING, Inbound, Inbox
from tests.broker.rig import BRANCH, Publisher, drive, linked, make_link, numbered, send_all
from tests.sim import wait_until
from tests.sim.broker import Broker
from tests.sim.fakebroker import FakeBroker, packet, publish

PING = f"{BRANCH}/commands/ping"
BOM = Properties(PacketTypes.PUBLISH)
BOM.UserProperty = ("note", "\ufeffhello")
"""Valid in MQTT (section 1.5.4 allows U+FEFF), and paho can't read it."""


def taken(inbox: Inbox, count: int) -> list[Inbound]:
    messages = [inbox.take(5.0) for _ in range(count)]
    assert None not in messages
    return messages  # type: ignore[return-value]


def test_a_command_arrives_with_what_its_answer_needs(broker: Broker):
    inbox = Inbox()
    properties = Properties(PacketTypes.PUBLISH)
    properties.ResponseTopic, properties.CorrelationData = "replies/me", b"\x00\x01"
    with linked(broker.port, inbox=inbox) as link:
        drive(link, lambda: link._ledger.open == 0)
        broker.listen().publish(PING, b"{}", properties=properties)
        drive(link, inbox._waiting.qsize)
        assert taken(inbox, 1) == [Inbound(PING, b"{}", response_topic="replies/me", correlation_data=b"\x00\x01")]


def test_commands_for_a_device_that_is_away_wait_for_it(broker: Broker):
    inbox = Inbox()
    link = make_link(broker.port, inbox=inbox)
    link.connect(5.0)
    drive(link, lambda: link._ledger.open == 0)
    link.close(None, 5.0)
    broker.listen().publish(PING, b"1")
    broker.restart()
    link.connect(5.0)
    drive(link, inbox._waiting.qsize)
    link.close(None, 5.0)
    assert taken(inbox, 1) == [Inbound(PING, b"1")]


def test_a_command_that_lies_on_the_broker_is_not_asked_for(broker: Broker):
    inbox = Inbox()
    sender = broker.listen()
    sender.publish(PING, b"retained", retain=True)
    with linked(broker.port, inbox=inbox) as link:
        drive(link, lambda: link._ledger.open == 0)
        sender.publish(PING, b"live")
        drive(link, inbox._waiting.qsize)
        assert taken(inbox, 1) == [Inbound(PING, b"live")]


def test_a_command_that_is_laid_on_the_broker_now_is_marked(broker: Broker):
    """So that it is refused, as docs/topics.md says: `Commands` looks at the mark."""
    inbox = Inbox()
    with linked(broker.port, inbox=inbox) as link:
        drive(link, lambda: link._ledger.open == 0)
        sender = broker.listen()
        sender.publish(PING, b"retained", retain=True)
        sender.publish(PING, b"live")
        drive(link, lambda: inbox._waiting.qsize() == 2)
        assert taken(inbox, 2) == [Inbound(PING, b"retained", retain=True), Inbound(PING, b"live")]


def test_a_flood_costs_messages_and_not_the_link(broker: Broker):
    inbox = Inbox()
    with Publisher(make_link(broker.port, inbox=inbox)) as publisher:
        publisher.put(numbered(1, 1))
        publisher.wait_acked(1)
        sender = broker.listen()
        for number in range(3000):
            sender.client.publish(PING, b"%d" % number, qos=0)
        sender.publish(PING, b"last")
        publisher.put(numbered(2, 200))
        publisher.wait_acked(201)
        wait_until(lambda: inbox.dropped == 3001 - MAX_WAITING, 20.0)
        assert publisher.losses == []
    assert [message.payload for message in taken(inbox, MAX_WAITING)] == [b"%d" % n for n in range(MAX_WAITING)]


def test_a_huge_message_stays_on_the_broker(broker: Broker):
    inbox = Inbox()
    with linked(broker.port, inbox=inbox) as link:
        drive(link, lambda: link._ledger.open == 0)
        sender = broker.listen()
        sender.publish(PING, bytes(20 << 20))
        sender.publish(PING, bytes(MAX_PAYLOAD_BYTES + 1))  # passes the limit on packets, not the one on payloads
        sender.publish(PING, bytes(MAX_PAYLOAD_BYTES))
        drive(link, inbox._waiting.qsize)
        assert inbox.dropped == 1
        assert [len(message.payload) for message in taken(inbox, 1)] == [MAX_PAYLOAD_BYTES]
        assert send_all(link, numbered(1, 5)) == [1, 2, 3, 4, 5]


def test_a_message_that_paho_can_not_read_does_not_come_back_for_ever(broker: Broker):
    """The broker holds it for the session and would send it again at every connection."""
    inbox = Inbox()
    link = make_link(broker.port, inbox=inbox)
    with Publisher(link) as publisher:
        publisher.put(numbered(1, 1))
        publisher.wait_acked(1)
        sender = broker.listen()
        sender.publish(PING, b"poison", properties=BOM)
        wait_until(lambda: publisher.losses)
        wait_until(lambda: link.connects == 2)
        publisher.put(numbered(2, 100))
        publisher.wait_acked(101)
        sender.publish(PING, b"well")
        assert taken(inbox, 1) == [Inbound(PING, b"well")]
    assert publisher.losses == [f"127.0.0.1:{broker.port} sent a packet that can't be read"]


def test_a_retained_message_that_paho_can_not_read_does_no_harm(broker: Broker):
    broker.listen().publish(PING, b"poison", properties=BOM, retain=True)
    with linked(broker.port) as link:
        assert send_all(link, numbered(1, 50)) == list(range(1, 51))


def test_many_properties_cost_time_but_not_the_link(broker: Broker):
    """paho reads them in a time that grows with the square of their number; the limit on packets bounds it."""
    inbox = Inbox()
    many = Properties(PacketTypes.PUBLISH)
    many.UserProperty = [("", "")] * 10_000
    with linked(broker.port, inbox=inbox, keepalive_s=30) as link:
        drive(link, lambda: link._ledger.open == 0)
        broker.listen().publish(PING, b"", properties=many)
        drive(link, inbox._waiting.qsize)
        assert taken(inbox, 1) == [Inbound(PING, b"")]


@pytest.mark.parametrize(
    "raw",
    [
        packet(0x40, b"\x00\x01\x55\x00"),  # PUBACK with a reason code that does not exist
        packet(0x40, b""),
        packet(0x90, b"\x00\x02\x00\x33"),  # SUBACK likewise
        packet(0x30, b"\xff\xff"),  # PUBLISH shorter than its topic
        publish("x", b"", properties=b"\x7f"),  # a property that does not exist
        publish("x", b"", properties=b"\x26\x00\x01\xff\x00\x00"),  # not UTF-8
        packet(0xF0, b"\x19"),
        b"\x30\xff\xff\xff\xff\xff",  # a length of five bytes
        packet(0xE0, b"\x01"),
    ],
)
def test_a_packet_that_no_broker_sends_ends_the_connection_and_nothing_else(raw: bytes):
    with FakeBroker() as fake:
        link = make_link(fake.port)
        with Publisher(link) as publisher:
            publisher.put(numbered(1, 1))
            publisher.wait_acked(1)
            fake.send(raw)
            wait_until(lambda: link.connects == 2)
            publisher.put(numbered(2, 1))
            publisher.wait_acked(2)
        assert len(publisher.losses) == 1


def test_a_topic_that_is_no_text_is_dropped():
    with FakeBroker() as fake, linked(fake.port) as link:
        drive(link, lambda: link._ledger.open == 0)
        fake.send(packet(0x30, b"\x00\x02\xff\xfe\x00payload"))
        assert send_all(link, numbered(1, 3)) == [1, 2, 3]


@settings(max_examples=60, deadline=None)
@given(
    raw=st.lists(st.binary(min_size=1, max_size=60) | st.builds(packet, st.integers(0, 255), st.binary(max_size=40)))
)
def test_whatever_a_broker_sends_nothing_but_linkdown_comes_out(raw: list[bytes]):
    with FakeBroker() as fake, linked(fake.port) as link:
        drive(link, lambda: link._ledger.open == 0)
        with contextlib.suppress(OSError):
            fake.send(b"".join(raw))
            fake.hang_up()
        with pytest.raises(LinkDown):
            drive(link, lambda: False)
