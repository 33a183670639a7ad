"""The accounts of what was sent, against a broker that may refuse, forget and disconnect at any moment."""

import itertools

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.mqtt.ledger import NO_SUBSCRIBERS, NOT_AUTHORIZED, TRIES, Ledger, Parked

QUOTA = 0x97


def begun() -> Ledger:
    ledger = Ledger()
    ledger.begin()
    return ledger


def send(ledger: Ledger, *ids: int, topic: str = "t") -> None:
    """Offer and send messages; the packet id is the message's."""
    for number in ids:
        assert ledger.offer(number, topic)
        ledger.sent(number, 0.0)


def answer(ledger: Ledger, *ids: int, code: int = 0) -> None:
    for number in ids:
        assert ledger.answered(number, code, "No", 0.0)


def say_hello(ledger: Ledger) -> None:
    """The status message that the broker takes at the start of a connection."""
    ledger.sent(60000, 0.0, beside_stream="status")
    answer(ledger, 60000)


def refuse_on_new_connections(ledger: Ledger, times: int, *, hello: bool, code: int = NOT_AUTHORIZED) -> list[Parked]:
    """Let message 1 be sent and refused, connection after connection."""
    parked = []
    for _ in range(times):
        ledger.end()
        ledger.begin()
        if hello:
            say_hello(ledger)
        send(ledger, 1)
        answer(ledger, 1, code=code)
        parked += list(ledger.settle())
    return parked


def test_acknowledged_ids_come_out_once_and_in_order():
    ledger = begun()
    send(ledger, 1, 2, 3)
    answer(ledger, 1, 2)
    assert ledger.take() == [1, 2]
    answer(ledger, 3)
    assert ledger.take() == [3]
    assert ledger.take() == []


def test_an_acknowledgement_out_of_order_waits_for_those_before_it():
    ledger = begun()
    send(ledger, 1, 2, 3)
    answer(ledger, 3, 2)
    assert ledger.take() == []
    answer(ledger, 1)
    assert ledger.take() == [1, 2, 3]


def test_a_message_that_nobody_subscribes_to_is_done_with():
    ledger = begun()
    send(ledger, 1)
    answer(ledger, 1, code=NO_SUBSCRIBERS)
    assert ledger.take() == [1]


def test_what_was_acknowledged_out_of_order_is_not_sent_again_after_a_reconnect():
    ledger = begun()
    send(ledger, 1, 2, 3)
    answer(ledger, 2, 3)
    ledger.end()
    ledger.begin()
    send(ledger, 1)
    assert not ledger.offer(2, "t")
    assert not ledger.offer(3, "t")
    answer(ledger, 1)
    assert ledger.take() == [1, 2, 3]


def test_a_gap_in_the_place_of_a_message_that_the_broker_has_is_sent():
    """3 was acknowledged out of order, and all three were evicted then: the gap that says so has its id."""
    ledger = begun()
    send(ledger, 1, 2, 3)
    answer(ledger, 1, 2, code=QUOTA)
    answer(ledger, 3)
    ledger.end()
    ledger.begin()
    assert ledger.offer(3, "gap")
    ledger.sent(3, 0.0)
    answer(ledger, 3)
    assert ledger.take() == [3]


def test_acknowledgements_that_came_just_before_the_end_can_still_be_taken():
    ledger = begun()
    send(ledger, 1, 2)
    answer(ledger, 1)
    ledger.end()
    assert ledger.take() == [1]


def test_acknowledgements_that_nobody_took_are_given_out_again_when_the_message_is_offered_again():
    ledger = begun()
    send(ledger, 1)
    answer(ledger, 1)
    ledger.end()
    ledger.begin()
    assert not ledger.offer(1, "t")
    assert ledger.take() == [1]


def test_an_answer_to_an_unknown_packet_is_nothing():
    ledger = begun()
    assert not ledger.answered(7, 0, "Success", 0.0)
    assert ledger.take() == []


def test_a_refusal_stops_sending_and_is_reported_once_the_other_answers_are_there():
    ledger = begun()
    send(ledger, 1, 2)
    answer(ledger, 1, code=NOT_AUTHORIZED)
    assert ledger.refused
    assert list(ledger.settle()) == []
    assert ledger.refusal() is None
    answer(ledger, 2)
    assert list(ledger.settle()) == []
    assert ledger.refusal() == ("t", "No")
    assert ledger.take() == []


def test_a_message_is_given_up_after_five_refusals_by_a_broker_that_takes_others():
    ledger = Ledger()
    assert refuse_on_new_connections(ledger, TRIES - 1, hello=True) == []
    assert refuse_on_new_connections(ledger, 1, hello=True) == [Parked("t", "No")]
    assert ledger.take() == [1]
    assert ledger.refusal() is None


def test_settling_again_on_the_same_connection_does_not_count_again():
    ledger = begun()
    say_hello(ledger)
    send(ledger, 1)
    answer(ledger, 1, code=QUOTA)
    assert [list(ledger.settle()) for _ in range(TRIES)] == [[]] * TRIES


def test_a_broker_that_refuses_everything_gets_nothing_dropped():
    ledger = Ledger()
    assert refuse_on_new_connections(ledger, 10 * TRIES, hello=False) == []
    assert ledger.refusal() == ("t", "No")


def test_the_next_message_on_a_forbidden_topic_is_given_up_at_its_first_refusal():
    ledger = Ledger()
    refuse_on_new_connections(ledger, TRIES, hello=True)
    send(ledger, 2, 3)
    answer(ledger, 2, code=NOT_AUTHORIZED)
    assert list(ledger.settle()) == [Parked("t", "No")]
    assert not ledger.refused
    assert ledger.take() == [1, 2]


def test_a_topic_is_allowed_again_when_the_broker_takes_a_message_on_it():
    ledger = Ledger()
    refuse_on_new_connections(ledger, TRIES, hello=True)
    send(ledger, 2, 3)
    answer(ledger, 2)
    answer(ledger, 3, code=NOT_AUTHORIZED)
    assert list(ledger.settle()) == []
    assert ledger.refusal() == ("t", "No")


def test_a_quota_does_not_make_a_topic_forbidden():
    ledger = Ledger()
    assert refuse_on_new_connections(ledger, TRIES, hello=True, code=QUOTA) == [Parked("t", "No")]
    send(ledger, 2)
    answer(ledger, 2, code=QUOTA)
    assert list(ledger.settle()) == []
    assert ledger.refusal() == ("t", "No")


def test_it_stalls_by_the_oldest_that_is_open_and_not_by_how_much_is():
    ledger = begun()
    assert ledger.stalled_s(100.0) == 0.0
    for number in (1, 2, 3):
        ledger.offer(number, "t")
        ledger.sent(number, 10.0)
    assert ledger.stalled_s(14.0) == 4.0
    assert ledger.answered(2, 0, "Success", 15.0)
    assert ledger.stalled_s(16.0) == 6.0
    assert ledger.answered(1, 0, "Success", 16.0)
    assert ledger.stalled_s(17.0) == 1.0
    assert ledger.answered(3, 0, "Success", 17.0)
    assert ledger.stalled_s(99.0) == 0.0


class LedgerMachine(RuleBasedStateMachine):
    """Every message is handed out once, in order, and only when the broker took it or it was given up."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = begun()
        self.packet_ids = itertools.count(1)
        self.open: dict[int, int | None] = {}  # packet id -> message id
        self.topics: dict[int, str] = {}
        self.offered = 0
        self.settled: set[int] = set()  # the broker took it, or it was given up
        self.refused: dict[int, int] = {}
        self.out = 0
        self.total = 0

    @rule(topic=st.sampled_from("ab"), oversize=st.booleans())
    def send(self, topic: str, oversize: bool) -> None:
        if self.ledger.refused:
            return
        self.offered += 1
        self.total = max(self.total, self.offered)
        topic = self.topics.setdefault(self.offered, topic if self.offered % 5 else "c")
        fresh = self.ledger.offer(self.offered, topic)
        assert fresh == (self.offered not in self.settled)
        if fresh and oversize:
            self.ledger.park()
            self.settled.add(self.offered)
        elif fresh:
            packet_id = next(self.packet_ids)
            self.ledger.sent(packet_id, 0.0)
            self.open[packet_id] = self.offered

    @rule()
    def send_beside(self) -> None:
        packet_id = next(self.packet_ids)
        self.ledger.sent(packet_id, 0.0, beside_stream="status")
        self.open[packet_id] = None

    @precondition(lambda self: self.open)
    @rule(data=st.data(), code=st.sampled_from([0, 0, 0x10, QUOTA, NOT_AUTHORIZED]))
    def answer(self, data: st.DataObject, code: int) -> None:
        packet_id = data.draw(st.sampled_from(list(self.open)))
        message = self.open.pop(packet_id)
        assert self.ledger.answered(packet_id, code, "No", 0.0)
        if message is not None and code < 0x80:
            self.settled.add(message)

    @rule()
    def take(self) -> None:
        parked = list(self.ledger.settle())
        waiting = self.ledger._line
        done = {flight.id for flight in waiting if flight.state == "done"}
        assert len(parked) == len(done - self.settled), "only what is reported as given up is done without a yes"
        self.settled |= done
        for message in self.ledger.take():
            assert message == self.out + 1
            assert message in self.settled
            self.out = message

    @rule(take_after=st.booleans())
    def reconnect(self, take_after: bool) -> None:
        self.ledger.end()
        if take_after:
            self.take()
        self.ledger.begin()
        self.open.clear()
        self.offered = self.out

    @invariant()
    def counts_what_is_open(self) -> None:
        assert self.ledger.open == len(self.open)

    def teardown(self) -> None:
        """A broker that takes everything from now on empties the line."""
        self.reconnect(take_after=True)
        while self.offered < self.total:
            self.send("a", oversize=False)
        for packet_id in list(self.open):
            assert self.ledger.answered(packet_id, 0, "Success", 0.0)
        self.settled |= {message for message in self.open.values() if message is not None}
        self.open.clear()
        self.take()
        assert self.out == self.total


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
