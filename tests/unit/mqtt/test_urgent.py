"""The queue of what goes beside the outbox."""

from agent.mqtt.urgent import MAX_WAITING, Urgent, UrgentQueue
from agent.values import OutboundMessage


def state(topic: str, payload: bytes = b"") -> Urgent:
    return Urgent(OutboundMessage(topic, payload, in_chain=False, retain=True), qos=1)


def telemetry(payload: bytes) -> Urgent:
    return Urgent(OutboundMessage("telemetry", payload, in_chain=False), qos=0)


def reply(payload: bytes, topic: str = "replies") -> Urgent:
    return Urgent(OutboundMessage(topic, payload, in_chain=False), qos=1, correlation_data=b"id")


def filled(*messages: Urgent) -> UrgentQueue:
    queue = UrgentQueue()
    for message in messages:
        assert queue.put(message)
    return queue


def drained(queue: UrgentQueue, *, qos0_only: bool = False) -> list[Urgent]:
    taken = []
    while message := queue.take(qos0_only=qos0_only):
        taken.append(message)
    return taken


def test_comes_out_in_order():
    assert drained(filled(reply(b"1"), state("s"), reply(b"2"))) == [reply(b"1"), state("s"), reply(b"2")]


def test_the_newest_retained_message_of_a_topic_wins():
    queue = filled(state("s", b"old"), state("other"), state("s", b"new"))
    assert drained(queue) == [state("other"), state("s", b"new")]


def test_the_newest_telemetry_wins():
    assert drained(filled(telemetry(b"1"), telemetry(b"2"))) == [telemetry(b"2")]


def test_answers_on_one_topic_all_stay():
    assert drained(filled(reply(b"1"), reply(b"2"))) == [reply(b"1"), reply(b"2")]


def test_only_qos_0_comes_out_while_no_acknowledgement_may_be_open():
    queue = filled(reply(b"1"), telemetry(b"t"), reply(b"2"))
    assert drained(queue, qos0_only=True) == [telemetry(b"t")]
    assert drained(queue) == [reply(b"1"), reply(b"2")]


def test_a_full_queue_takes_no_newcomer_but_a_newer_state():
    queue = filled(state("s", b"old"), *(reply(b"%d" % number) for number in range(MAX_WAITING - 1)))
    assert not queue.put(reply(b"one too many"))
    assert queue.put(state("s", b"new"))
    assert len(drained(queue)) == MAX_WAITING


def test_what_was_not_acknowledged_goes_back_to_the_front_unless_a_newer_state_came():
    queue = filled(reply(b"3"), state("s", b"new"))
    queue.put_back([reply(b"1"), state("s", b"old"), reply(b"2")])
    assert drained(queue) == [reply(b"1"), reply(b"2"), reply(b"3"), state("s", b"new")]


def test_putting_back_keeps_the_bound():
    queue = filled(*(reply(b"%d" % number) for number in range(MAX_WAITING)))
    queue.put_back([reply(b"first")])
    assert len(queue) == MAX_WAITING
    assert queue.take(qos0_only=False) == reply(b"first")


def test_a_state_that_goes_out_another_way_is_forgotten():
    queue = filled(state("s"), reply(b"r", topic="s"))
    queue.drop_state_of("s")
    assert drained(queue) == [reply(b"r", topic="s")]


def test_nothing_of_its_topic_follows_a_last_state():
    queue = filled(state("s", b"old"), reply(b"1"))
    queue.put_last(state("s", b"last"))
    assert not queue.put(state("s", b"late"))
    assert queue.put(state("other"))
    assert drained(queue) == [state("s", b"last"), reply(b"1"), state("other")]
    assert not queue.put(state("s", b"late"))
    queue.drop_state_of("s")
    assert queue.put(state("s", b"of the next connection"))
