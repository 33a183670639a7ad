"""The bounded queue of what came in."""

from agent.mqtt.inbox import MAX_PAYLOAD_BYTES, MAX_WAITING, Inbound, Inbox


def test_messages_come_out_in_order():
    inbox = Inbox()
    inbox.put(Inbound("a", b"1"))
    inbox.put(Inbound("b", b"2"))
    assert [inbox.take(1.0), inbox.take(1.0)] == [Inbound("a", b"1"), Inbound("b", b"2")]


def test_take_gives_none_when_nothing_comes():
    assert Inbox().take(0.01) is None


def test_a_flood_is_dropped_and_counted():
    inbox = Inbox()
    for number in range(1000):
        inbox.put(Inbound("t", b"%d" % number))
    assert inbox.dropped == 1000 - MAX_WAITING
    assert inbox.take(1.0) == Inbound("t", b"0")


def test_a_large_payload_is_dropped_and_counted():
    inbox = Inbox()
    inbox.put(Inbound("t", bytes(MAX_PAYLOAD_BYTES)))
    inbox.put(Inbound("t", bytes(MAX_PAYLOAD_BYTES + 1)))
    assert inbox.dropped == 1
    assert inbox.take(1.0) == Inbound("t", bytes(MAX_PAYLOAD_BYTES))
    assert inbox.take(0.01) is None
