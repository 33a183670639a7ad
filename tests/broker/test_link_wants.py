"""What is retained: standing filters for releases, and single topics for as long as somebody wants them."""

import contextlib
import time
from collections.abc import Iterator

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.config import Mqtt
from agent.mqtt.inbox import MAX_PAYLOAD_BYTES, Inbound, Inbox, Receiver, Router
from agent.mqtt.link import Link
from tests.broker.rig import BRANCH, COMMANDS, DEVICE, Publisher, drive, numbered, send_all, status
from tests.sim import wait_until
from tests.sim.broker import Broker
from tests.sim.fakebroker import FakeBroker, Script
from tests.sim.proxy import FaultProxy

RELEASES = "edge/releases/+"
FACE = "edge/releases/face"
CHUNK = "edge/blobs/00/0"
BOM = Properties(PacketTypes.PUBLISH)
BOM.UserProperty = ("note", "\ufeffhello")
"""Valid in MQTT (section 1.5.4 allows U+FEFF), and paho can't read it."""


class Ear:
    """Takes what comes in."""

    def __init__(self) -> None:
        self.messages: list[Inbound] = []
        self.put = self.messages.append

    @property
    def payloads(self) -> list[bytes]:
        return [message.payload for message in self.messages]


def make_link(port: int, ear: Receiver, keepalive_s: int = 1) -> Link:
    """A device's link that also wants releases."""
    return Link(
        Mqtt(host="127.0.0.1", port=port, keepalive_s=keepalive_s),
        DEVICE,
        will=status(b"offline"),
        birth=lambda: status(b"online"),
        topic_filters=[COMMANDS],
        inbox=ear,
        retained_filters=[RELEASES],
    )


@contextlib.contextmanager
def linked(port: int, ear: Receiver) -> Iterator[Link]:
    """Such a link, connected."""
    link = make_link(port, ear)
    try:
        link.connect(5.0)
        yield link
    finally:
        link.close(None, 1.0)


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def link(broker: Broker, ear: Ear) -> Iterator[Link]:
    with linked(broker.port, ear) as running:
        drive(running, lambda: running._ledger.open == 0)
        yield running


def settle(link: Link, ear: Ear, broker: Broker) -> None:
    """Come back when everything that the broker had to say before now has come in."""
    drive(link, lambda: link._ledger.open == 0)  # subscribed: the mark is not retained
    mark = Inbound(f"{BRANCH}/commands/mark", b"%d" % time.monotonic_ns())
    broker.listen().publish(mark.topic, mark.payload)
    drive(link, lambda: mark in ear.messages)
    ear.messages.remove(mark)


def test_releases_come_at_each_connection_and_commands_that_lie_there_never(broker: Broker, ear: Ear):
    sender = broker.listen()
    sender.publish(FACE, b"release", retain=True)
    sender.publish(f"{BRANCH}/commands/ping", b"retained", retain=True)
    link = make_link(broker.port, ear)
    for _ in range(2):
        ear.messages.clear()
        link.connect(5.0)
        drive(link, lambda: ear.messages)
        settle(link, ear, broker)
        assert ear.messages == [Inbound(FACE, b"release", retain=True)]
        link.close(None, 1.0)


def test_a_release_that_comes_later_comes_too(broker: Broker, link: Link, ear: Ear):
    settle(link, ear, broker)
    broker.listen().publish(FACE, b"new", retain=True)
    settle(link, ear, broker)
    assert ear.messages == [Inbound(FACE, b"new")]


def test_what_is_wanted_comes_again_at_each_call_until_it_is_unwanted(broker: Broker, link: Link, ear: Ear):
    sender = broker.listen()
    sender.publish(CHUNK, b"chunk", retain=True)
    link.unwant([CHUNK])
    settle(link, ear, broker)
    assert ear.messages == []
    link.want([CHUNK])
    drive(link, lambda: len(ear.messages) == 1)
    link.want([CHUNK])
    drive(link, lambda: len(ear.messages) == 2)
    link.unwant([CHUNK])
    link.want([CHUNK])
    drive(link, lambda: len(ear.messages) == 3)
    link.unwant([CHUNK])
    link.pump()
    sender.publish(CHUNK, b"not wanted any more")
    settle(link, ear, broker)
    assert ear.messages == [Inbound(CHUNK, b"chunk", retain=True)] * 3
    link.want([CHUNK])
    link.unwant([CHUNK])
    settle(link, ear, broker)
    assert len(ear.messages) == 3


def test_want_wakes_the_publish_thread(broker: Broker, ear: Ear):
    link = make_link(broker.port, ear, keepalive_s=60)
    with Publisher(link) as publisher:
        publisher.put(numbered(1, 1))
        publisher.wait_acked(1)
        broker.listen().publish(CHUNK, b"chunk", retain=True)
        link.want([CHUNK])
        wait_until(lambda: ear.payloads == [b"chunk"])


def test_what_was_wanted_on_a_lost_connection_is_forgotten_also_by_the_broker(
    broker: Broker, proxy: FaultProxy, ear: Ear
):
    sender = broker.listen()

    def chunks() -> list[bytes]:  # a mark that was not acknowledged before the cut comes again
        return [message.payload for message in ear.messages if message.topic == CHUNK]

    with linked(proxy.port, ear) as link:
        link.want([CHUNK])
        link.pump()
        settle(link, ear, broker)
        proxy.cut()
        link.connect(5.0)
        settle(link, ear, broker)
        sender.publish(CHUNK, b"nobody wants it", retain=True)
        settle(link, ear, broker)
        assert chunks() == []
        link.want([CHUNK])
        drive(link, lambda: chunks() == [b"nobody wants it"])
    link.want([CHUNK])  # without a connection: nothing
    link.connect(5.0)
    settle(link, ear, broker)
    assert len(chunks()) == 1
    link.close(None, 1.0)


def test_a_refused_topic_is_known_to_who_wants_it():
    with FakeBroker(Script(suback=0x87)) as fake, linked(fake.port, Ear()) as link:
        drive(link, lambda: link.last_error == f"the broker refuses the subscription to {RELEASES}: not authorized")
        link.want([CHUNK])
        drive(link, lambda: link.denied)
        assert link.denied == {CHUNK: f"the broker refuses the subscription to {CHUNK}: not authorized"}
        assert RELEASES in str(link.last_error)
        fake.script.suback = 0
        link.unwant([CHUNK])
        assert link.denied == {}
        assert send_all(link, numbered(1, 3)) == [1, 2, 3]


# --- hostile ones -----------------------------------------------------------------------------------------------------


def test_64_kib_pass_and_what_is_larger_costs_nothing_but_itself(broker: Broker):
    ear, sender = Ear(), broker.listen()
    router = Router(Inbox(), lambda topic: "/commands/" in topic, ear.put)
    sizes = {"a": MAX_PAYLOAD_BYTES, "b": MAX_PAYLOAD_BYTES + 1, "c": 20 << 20, "d": 1}
    for name, size in sizes.items():
        sender.publish(f"edge/releases/{name}", bytes(size), retain=True)
        sender.publish(f"edge/blobs/{name}/0", bytes(size), retain=True)
    with Publisher(make_link(broker.port, router)) as publisher:
        publisher.put(numbered(1, 100))
        publisher.wait_acked(100)
        publisher.link.want([f"edge/blobs/{name}/0" for name in sizes])
        wait_until(lambda: len(ear.messages) == 4)
        publisher.put(numbered(101, 100))
        publisher.wait_acked(200)
        assert publisher.losses == []
    assert sorted(len(payload) for payload in ear.payloads) == [1, 1, MAX_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES]
    assert router.dropped == 2


@pytest.mark.parametrize("topic", [FACE, CHUNK])
def test_a_retained_message_that_paho_can_not_read_holds_up_updates_but_not_results(broker: Broker, topic: str):
    ear, sender = Ear(), broker.listen()
    sender.publish(topic, b"poison", properties=BOM, retain=True)
    link = make_link(broker.port, ear)
    with Publisher(link) as publisher:
        wait_until(lambda: link.connected)
        link.want([CHUNK])
        wait_until(lambda: publisher.losses)
        wait_until(lambda: link.connects == 2)
        publisher.put(numbered(1, 200))
        publisher.wait_acked(200)
        link.want([CHUNK])
        assert "nothing is fetched for ten minutes" in link.denied[CHUNK]
        sender.publish(f"{BRANCH}/commands/ping", b"command")
        wait_until(lambda: ear.payloads == [b"command"])
        assert len(publisher.losses) == 1
        sender.publish(topic, b"well", retain=True)
        link._retained_from_s = 0.0  # ten minutes later
        link.want([CHUNK])
        wait_until(lambda: ear.payloads == [b"command", b"well"])
        assert len(publisher.losses) == 1


def test_commands_and_the_rest_go_their_ways():
    inbox, ear = Inbox(), Ear()
    router = Router(inbox, lambda topic: topic == COMMANDS, ear.put)
    for number in range(100):
        router.put(Inbound(COMMANDS, b"%d" % number))
        router.put(Inbound(CHUNK, b"%d" % number))
    assert len(ear.messages) == 100
    assert inbox.dropped == 36
    assert router.dropped == 0
