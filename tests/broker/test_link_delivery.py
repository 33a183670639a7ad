"""What is sent arrives: over cuts, silence and restarts, within the broker's limits, past what it refuses."""

import itertools
import random
from pathlib import Path

import pytest

from agent.errors import LinkDown
from agent.mqtt.ledger import TRIES
from agent.values import OutboundMessage
from tests.broker.rig import (
    BRANCH,
    RESULTS,
    STATUS,
    Publisher,
    Stored,
    drive,
    linked,
    make_link,
    numbered,
    send_all,
    status,
)
from tests.sim import wait_until
from tests.sim.broker import Broker, Listener
from tests.sim.fakebroker import FakeBroker, Publish, Script, connack
from tests.sim.proxy import FaultProxy

SNAPSHOTS = f"{BRANCH}/snapshots/door"
FORBIDDING = f"topic readwrite {STATUS}\ntopic readwrite {RESULTS}\ntopic read edge/#\n"
"""An access list that forgets the snapshots."""


def firsts(listener: Listener, topic: str = RESULTS) -> list[int]:
    """Numbers in the order of their first delivery."""
    return list(dict.fromkeys(int(payload) for payload in listener.payloads(topic)))


# --- faults -----------------------------------------------------------------------------------------------------------


def test_everything_arrives_in_order_on_a_good_line(broker: Broker):
    listener = broker.listen(RESULTS)
    with Publisher(make_link(broker.port)) as publisher:
        publisher.put(numbered(1, 1000))
        publisher.wait_acked(1000)
    listener.wait_for(lambda messages: len(messages) == 1000)
    assert [int(payload) for payload in listener.payloads()] == list(range(1, 1001))
    assert publisher.acks == list(range(1, 1001))
    assert publisher.losses == []


def test_everything_arrives_in_order_over_cuts_silence_and_restarts(broker: Broker, proxy: FaultProxy):
    listener = broker.listen(RESULTS)
    link = make_link(proxy.port)
    rng = random.Random(7)
    faults = itertools.cycle([
        proxy.cut,
        lambda: proxy.delay(0.01),
        lambda: proxy.blackhole("down"),
        proxy.cut,
        broker.restart,
        lambda: proxy.slow(50_000),
        lambda: proxy.blackhole("up"),
        proxy.refuse,
        proxy.blackhole,
    ])  # fmt: skip
    count = 0
    with Publisher(link) as publisher:
        for fault in itertools.islice(faults, 18):
            proxy.pass_through()
            some = rng.randint(50, 150)
            publisher.put(numbered(count + 1, some))
            publisher.wait_acked(count + rng.randint(1, some))
            count += some
            publisher.put(numbered(count + 1, 30))
            fault()
            connects, losses = link.connects, len(publisher.losses)
            if fault in (proxy.cut, proxy.refuse):
                wait_until(lambda: len(publisher.losses) > losses or link.connects > connects)  # noqa: B023
            count += 30
        proxy.pass_through()
        publisher.wait_acked(count)
    listener.wait_for(lambda _: len(firsts(listener)) == count)
    assert firsts(listener) == list(range(1, count + 1))
    assert publisher.acks == list(range(1, count + 1))
    assert link.connects > 5


@pytest.mark.parametrize("direction", ["up", "down", None])
def test_silence_is_noticed_with_messages_in_flight(broker: Broker, proxy: FaultProxy, direction: str | None):
    with linked(proxy.port) as link:
        drive(link, lambda: link._ledger.open == 0)
        proxy.blackhole(direction)
        link.send(Stored(1))
        with pytest.raises(LinkDown, match=r"says nothing any more|acknowledges nothing any more"):
            drive(link, lambda: False)
        proxy.pass_through()


def test_silence_is_noticed_with_nothing_to_send(broker: Broker, proxy: FaultProxy):
    with linked(proxy.port) as link:
        drive(link, lambda: link._ledger.open == 0)
        proxy.blackhole()
        with pytest.raises(LinkDown, match=r"says nothing any more"):
            drive(link, lambda: False)


def test_a_broker_that_pings_and_acknowledges_nothing_is_given_up():
    with FakeBroker(Script(puback=lambda message: 0 if message.topic == STATUS else None)) as fake:
        with linked(fake.port) as link:
            link.send(Stored(1))
            with pytest.raises(LinkDown, match=r"acknowledges nothing any more"):
                drive(link, lambda: False)
        with linked(fake.port) as link:
            fake.script.puback = lambda _: 0
            assert send_all(link, [Stored(1)]) == [1]


def test_a_slow_uplink_with_a_backlog_keeps_its_connection_and_lets_news_pass(tmp_path: Path):
    """70 pictures of 20 kB at 160 kB/s take three keepalives; all in the kernel, they would hold up the pings."""
    with Broker(tmp_path / "broker", "max_inflight_messages 1000") as broker, FaultProxy(broker.port) as proxy:
        listener = broker.listen("edge/#")
        proxy.slow(160_000)
        link = make_link(proxy.port, keepalive_s=3, max_in_flight=1000)
        with Publisher(link) as publisher:
            publisher.put([Stored(number, SNAPSHOTS, bytes(20_000)) for number in range(1, 71)])
            publisher.wait_acked(15)
            link.post(status(b"degraded"), qos=1)
            publisher.wait_acked(70, 40.0)
        assert publisher.losses == []
        assert link.connects == 1
        topics = [message.topic for message in listener.wait_for(lambda messages: len(messages) == 73)]
        assert topics.index(STATUS, 1) < 40


def test_what_was_acknowledged_behind_a_gap_is_not_sent_twice():
    """The broker forgets the answer to the first message; only that one is sent again."""
    with FakeBroker(Script(puback=lambda message: None if message.payload == b"1" else 0)) as fake:
        with Publisher(make_link(fake.port)) as publisher:
            publisher.put(numbered(1, 5))
            wait_until(lambda: publisher.losses)
            fake.script.puback = lambda _: 0
            publisher.wait_acked(5)
        sent = [message.payload for message in fake.published if message.topic == RESULTS]
    assert sent == [b"1", b"2", b"3", b"4", b"5", b"1"]
    assert publisher.acks == [1, 2, 3, 4, 5]


def test_an_answer_to_a_command_is_sent_again_when_it_was_not_acknowledged():
    with FakeBroker(Script(puback=lambda message: 0 if message.topic == STATUS else None)) as fake:
        link = make_link(fake.port)
        with Publisher(link) as publisher:
            assert link.post(OutboundMessage("replies/me", b"done", in_chain=False), qos=1, correlation_data=b"7")
            wait_until(lambda: publisher.losses)
            fake.script.puback = lambda _: 0
            replies = lambda: [message.payload for message in fake.published if message.topic == "replies/me"]  # noqa: E731
            wait_until(lambda: len(replies()) == 2)
    assert replies() == [b"done", b"done"]


# --- limits of the broker ---------------------------------------------------------------------------------------------


def test_the_window_is_the_brokers_when_that_is_smaller():
    script = Script(connack=connack(receive_maximum=1), puback=lambda _: None)
    with FakeBroker(script) as fake, linked(fake.port, keepalive_s=60) as link:
        (birth,) = fake.wait_for(1)
        assert link.room() == 0, "the birth is open"
        fake.answer(birth)
        drive(link, lambda: link.room() == 1)
        link.send(Stored(1))
        assert link.room() == 0
        assert link.post(status(b"degraded"), qos=1)
        assert link.post(OutboundMessage(f"{BRANCH}/telemetry", b"t", in_chain=False), qos=0)
        drive(link, lambda: len(fake.published) == 3)
        assert [message.qos for message in fake.published] == [1, 1, 0], "only QoS 0 passes a full window"
        fake.answer(fake.published[1])
        drive(link, lambda: len(fake.published) == 4)
        assert fake.published[3].payload == b"degraded"
        assert link.room() == 0


def test_the_keepalive_is_the_brokers():
    script = Script(connack=connack(server_keepalive_s=1), pingresp=False)
    with (
        FakeBroker(script) as fake,
        linked(fake.port, keepalive_s=3600) as link,
        pytest.raises(LinkDown, match=r"says nothing any more"),
    ):
        drive(link, lambda: False)


def test_a_broker_that_wants_no_keepalive_gets_ours():
    script = Script(
        connack=connack(server_keepalive_s=0), puback=lambda message: 0 if message.topic == STATUS else None
    )
    with FakeBroker(script) as fake, linked(fake.port) as link:
        link.send(Stored(1))
        drive(link, lambda: len(fake.published) == 2)
        with pytest.raises(LinkDown, match=r"acknowledges nothing any more"):
            drive(link, lambda: False)


def test_the_window_is_ours_when_that_is_smaller():
    with FakeBroker(Script(puback=lambda _: None)) as fake, linked(fake.port, max_in_flight=3, keepalive_s=60) as link:
        assert link.room() == 2
        link.send(Stored(1))
        link.send(Stored(2))
        assert link.room() == 0


@pytest.mark.parametrize("properties", [(), (("event_id", "ä" * 30),)])
def test_a_message_of_exactly_the_brokers_limit_goes_and_one_byte_more_is_given_up(
    properties: tuple[tuple[str, str], ...],
):
    limit = 400
    with FakeBroker(Script(connack=connack(maximum_packet_size=limit))) as fake, linked(fake.port) as link:
        sizes = range(100, 400)
        assert send_all(link, [Stored(size, payload=bytes(size), user_properties=properties) for size in sizes]) == [
            *sizes
        ]
        taken = [message.size for message in fake.published]
        assert max(taken) == limit
        assert link.refused == len(sizes) + 1 - len(taken)  # the birth is one more
        assert "was given up" in (link.last_error or "")
        assert link.connected


def test_messages_over_the_limit_of_a_real_broker_do_not_block_those_behind(tmp_path: Path):
    with Broker(tmp_path / "broker", "max_packet_size 2000") as broker:
        listener = broker.listen("edge/#")
        with Publisher(make_link(broker.port)) as publisher:
            publisher.put([Stored(1), Stored(2, payload=bytes(3000)), Stored(3)])
            publisher.wait_acked(3)
        assert publisher.losses == []
        assert publisher.link.refused == 1
        assert len(listener.wait_for(lambda messages: len(messages) >= 4)) == 4


@pytest.mark.parametrize("topic", ["", "edge/+/x", "edge/#", "edge/\0", "edge/\x07", "x" * 70000])
def test_what_is_no_topic_is_given_up_and_does_not_end_the_connection(broker: Broker, topic: str):
    """Who sends a command chooses the topic of its answer."""
    with linked(broker.port) as link:
        link.post(OutboundMessage(topic, b"", in_chain=False), qos=1)
        assert send_all(link, [Stored(1, topic), Stored(2)]) == [1, 2]
        assert link.refused == 2
        assert link.connected


def test_a_response_that_is_too_large_with_its_correlation_data_is_given_up(tmp_path: Path):
    with Broker(tmp_path / "broker", "max_packet_size 2000") as broker, linked(broker.port) as link:
        link.post(OutboundMessage("replies", b"", in_chain=False), qos=1, correlation_data=bytes(3000))
        assert send_all(link, numbered(1, 2)) == [1, 2]
        assert link.refused == 1


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_publish_that_the_access_list_forbids_is_a_refusal(tmp_path: Path):
    """Over MQTT 3.1.1 it would be acknowledged like any other, and lost."""
    with Broker(tmp_path / "broker", acl=FORBIDDING) as broker, linked(broker.port) as link:
        with pytest.raises(LinkDown, match=rf"the broker refuses messages on {SNAPSHOTS}: not authorized"):
            send_all(link, [Stored(1, SNAPSHOTS), Stored(2), Stored(3)])
        assert link.refused == 0, "it is kept"


def test_a_forbidden_topic_is_given_up_after_five_refusals_and_the_others_go_on(tmp_path: Path):
    with Broker(tmp_path / "broker", acl=FORBIDDING) as broker:
        listener = broker.listen(RESULTS)
        mixed = [Stored(number, SNAPSHOTS if number % 10 == 5 else RESULTS, b"%d" % number) for number in range(1, 201)]
        link = make_link(broker.port)
        with Publisher(link) as publisher:
            publisher.put(mixed)
            publisher.wait_acked(200)
            assert len(publisher.losses) == TRIES - 1, "after the first was given up, the rest has one try each"
            assert link.refused == 20
        allowed = [number for number in range(1, 201) if number % 10 != 5]
        listener.wait_for(lambda _: len(firsts(listener)) == len(allowed))
        assert [int(payload) for payload in listener.payloads()] == allowed, "in order, and none twice"


def test_a_topic_that_becomes_allowed_is_used_again(tmp_path: Path):
    with Broker(tmp_path / "broker", acl=FORBIDDING) as broker:
        listener = broker.listen(SNAPSHOTS)
        link = make_link(broker.port)
        with Publisher(link) as publisher:
            publisher.put([Stored(1, SNAPSHOTS, b"1")])
            wait_until(lambda: publisher.losses)
            broker.write_acl(f"{FORBIDDING}topic readwrite {SNAPSHOTS}\n")
            broker.reload()
            publisher.wait_acked(1)
        assert link.refused == 0
        listener.wait_for(lambda _: listener.payloads() == [b"1"])


def test_a_device_that_may_write_nothing_loses_nothing(tmp_path: Path):
    """A fleet whose access list is broken for an hour must not throw that hour away."""
    with Broker(tmp_path / "broker", acl="topic read edge/#\n") as broker:
        listener = broker.listen(RESULTS)
        link = make_link(broker.port)
        with Publisher(link) as publisher:
            publisher.put(numbered(1, 20))
            wait_until(lambda: len(publisher.losses) >= 3 * TRIES)
            assert publisher.acked == 0
            broker.write_acl("topic readwrite edge/#\n")
            broker.reload()
            publisher.wait_acked(20)
        listener.wait_for(lambda messages: len(messages) >= 20)
        assert firsts(listener) == list(range(1, 21))


@pytest.mark.parametrize("code", [0x80, 0x83, 0x87, 0x97])
def test_one_message_that_a_broker_refuses_for_whatever_reason_does_not_block_the_others(code: int):
    with FakeBroker(Script(puback=lambda message: code if message.payload == b"3" else 0)) as fake:
        with Publisher(make_link(fake.port)) as publisher:
            publisher.put(numbered(1, 6))
            publisher.wait_acked(6)
        sent = [message.payload for message in fake.published if message.topic == RESULTS]
    assert sent.count(b"3") == TRIES
    assert len(sent) == 5 + TRIES
    assert publisher.link.refused == 1


def test_a_broker_over_its_quota_is_waited_for():
    with FakeBroker(Script(puback=lambda _: 0x97)) as fake, Publisher(make_link(fake.port)) as publisher:
        publisher.put(numbered(1, 6))
        wait_until(lambda: len(publisher.losses) >= 2 * TRIES)
        assert publisher.losses[-1].startswith(f"the broker refuses messages on {RESULTS}: quota exceeded")
        assert publisher.acked == 0
        fake.script.puback = lambda _: 0
        publisher.wait_acked(6)


def test_a_forbidden_topic_does_not_block_a_window_of_one():
    def puback(message: Publish) -> int:
        return 0x87 if message.topic == SNAPSHOTS else 0

    with FakeBroker(Script(connack=connack(receive_maximum=1), puback=puback)) as fake:
        with Publisher(make_link(fake.port)) as publisher:
            publisher.put([*numbered(1, 5, SNAPSHOTS), *numbered(6, 5)])
            publisher.wait_acked(10)
        assert publisher.link.refused == 5


def test_messages_that_nobody_subscribes_to_are_done_with_and_counted(broker: Broker):
    with linked(broker.port) as link:
        send_all(link, numbered(1, 10))
        assert link.no_subscribers == 11  # and the birth
