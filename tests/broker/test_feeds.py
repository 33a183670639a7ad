"""Readings of other devices over the agent's connection, with a real broker."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest

from agent.capture import FrameSource, make_source
from agent.config import MqttPlace, MqttSource
from agent.errors import SourceError
from agent.mqtt.feeds import MAX_WAITING, Feeds
from agent.mqtt.inbox import Inbound, Inbox, Router
from agent.mqtt.link import Link
from tests.broker.rig import Publisher, drive, linked, make_link
from tests.sim import wait_until
from tests.sim.broker import Broker
from tests.sim.fakebroker import FakeBroker, Script
from tests.sim.sensors import Repeater

KITCHEN, HALL = "zigbee2mqtt/kitchen", "zigbee2mqtt/hall"


@dataclass
class Agent:
    """A link with feeds, and a publish thread."""

    link: Link
    feeds: Feeds
    others: list[Inbound]
    """What went past the feeds."""
    broker: Broker

    def open(self, **channels: str | MqttPlace) -> FrameSource:
        """A source of the kitchen's topic that is subscribed."""
        source = make_source(MqttSource(topic=KITCHEN, channels=channels), self.feeds.subscribe)
        source.open()
        return source


def feeds_of(port: int) -> tuple[Link, Feeds, list[Inbound]]:
    others: list[Inbound] = []
    router = Router(Inbox(), lambda _: False, lambda message: feeds.put(message) or others.append(message))
    link = make_link(port, inbox=router)
    feeds = Feeds(link)
    return link, feeds, others


@pytest.fixture
def agent(broker: Broker) -> Iterator[Agent]:
    link, feeds, others = feeds_of(broker.port)
    with Publisher(link):
        wait_until(lambda: link.connected)
        yield Agent(link, feeds, others, broker)


@contextlib.contextmanager
def said(broker: Broker, topic: str, payload: bytes) -> Iterator[None]:
    """Somebody publishes this again and again: a subscription takes its time."""
    sensor = broker.listen()
    repeater = Repeater(lambda _: sensor.client.publish(topic, payload))
    yield
    repeater.stop()


def read(source: FrameSource) -> list[float]:
    frame = source.read()
    assert frame is not None
    return [float(value) for value in frame.data[0]]


def test_each_message_is_a_reading_in_which_channels_of_other_topics_are_missing(agent: Agent):
    source = agent.open(temperature="temperature", hall=MqttPlace(topic=HALL, path="sensor.t"))
    with said(agent.broker, KITCHEN, b'{"temperature": 21.5}'):
        assert np.array_equal(read(source), [21.5, math.nan], equal_nan=True)
    with said(agent.broker, HALL, b'{"sensor": {"t": 18}, "linkquality": 7}'):
        wait_until(lambda: np.array_equal(read(source), [math.nan, 18.0], equal_nan=True))
    source.close()


def test_a_bare_number_is_a_payload_too(agent: Agent):
    source = agent.open(power="")
    with said(agent.broker, KITCHEN, b"-12.5"):
        assert read(source) == [-12.5]
    source.close()


def test_what_is_broken_is_counted_and_what_has_none_of_the_channels_is_left_out(agent: Agent):
    source = agent.open(temperature="temperature")
    feed = source._feed
    for payload in (b"{", b'{"temperature": "hot"}', b"", b"[" * 60_000, b'{"battery": 7}', b'{"temperature": 20}'):
        feed.put(Inbound(KITCHEN, payload))
    assert read(source) == [20.0]
    assert source.broken == 4
    source.close()


def test_what_lies_on_the_broker_is_no_reading_of_now(agent: Agent):
    agent.broker.listen().publish(KITCHEN, b'{"temperature": 1}', retain=True)
    source = agent.open(temperature="temperature")
    with said(agent.broker, KITCHEN, b'{"temperature": 2}'):
        assert read(source) == [2.0]
    source.close()


def test_readings_go_on_after_the_broker_was_away(agent: Agent):
    source = agent.open(temperature="temperature")
    with said(agent.broker, KITCHEN, b'{"temperature": 2}'):
        assert read(source) == [2.0]
        agent.broker.kill()
        wait_until(lambda: not agent.link.connected)
        agent.broker.start()
        before = source._index
        while agent.link.connects < 2 or source._index < before + 100:
            assert read(source) == [2.0]
    source.close()


def test_two_sources_share_a_topic_and_it_is_left_with_the_last(agent: Agent):
    one, two = agent.open(temperature="temperature"), agent.open(humidity="humidity")
    with said(agent.broker, KITCHEN, b'{"temperature": 2, "humidity": 40}'):
        assert (read(one), read(two)) == ([2.0], [40.0])
        one.close()
        assert [read(two) for _ in range(20)] == [[40.0]] * 20
        two.close()
        agent.link.wake()
        wait_until(lambda: "unsubscribe" in agent.broker.log.lower())
    assert agent.feeds._feeds == []


def test_a_flood_drops_the_oldest_and_the_next_frame_says_that_some_are_lost():
    link, feeds, others = feeds_of(1)
    feed = feeds.subscribe([KITCHEN])
    source = make_source(MqttSource(topic=KITCHEN, channels={"n": ""}), lambda _: feed)
    source.open()
    feeds.put(Inbound(KITCHEN, b"-1"))
    assert source.read().is_first
    for number in range(MAX_WAITING + 10):
        assert feeds.put(Inbound(KITCHEN, b"%d" % number))
    frames = [source.read() for _ in range(MAX_WAITING)]
    assert [frame.data[0, 0] for frame in frames] == list(range(10, MAX_WAITING + 10))
    assert [frame.is_first for frame in frames] == [True] + [False] * (MAX_WAITING - 1)
    assert not feeds.put(Inbound(HALL, b"1"))
    source.close()
    assert not feeds.put(Inbound(KITCHEN, b"1"))
    assert link.connects == 0
    assert others == []


def test_a_topic_that_the_broker_refuses_is_an_error_that_names_it():
    with FakeBroker(Script(suback=0x87)) as fake, contextlib.ExitStack() as at_end:
        feeds = Feeds(link := at_end.enter_context(linked(fake.port)))
        source = make_source(MqttSource(topic=KITCHEN, channels={"n": ""}), feeds.subscribe)
        source.open()
        feed = source._feed
        feed._ask()
        drive(link, lambda: link.denied)
        with pytest.raises(SourceError, match=f"mqtt {KITCHEN}: the broker refuses the subscription to {KITCHEN}"):
            source.read()
        source.close()
        assert link.denied == {}
