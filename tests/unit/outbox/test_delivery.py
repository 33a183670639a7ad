"""Who says that a message is done with, and what is sent again until then."""

from pathlib import Path

import pytest

from agent.outbox import delivery
from agent.outbox.delivery import BrokerDelivery, CollectorDelivery
from agent.outbox.store import Outbox
from agent.runtime.health import Health
from tests.unit.outbox.support import message, open_box, snapshot

RESEND_AFTER_S = 30.0


class Rig:
    """An outbox with a collector's delivery on it, and a clock to turn."""

    def __init__(self, box: Outbox) -> None:
        self.box = box
        self.now_s = 1000.0
        self.health = Health()
        self.delivery = CollectorDelivery(box, RESEND_AFTER_S, self.health, lambda: self.now_s)
        self.delivery.begin()

    def send(self, count: int = 1000) -> list[int]:
        """What goes out now; the broker takes it at once."""
        ids = [m.id for m in self.delivery.next(count, 1 << 30)]
        if ids:
            self.delivery.taken(ids[-1])
        return ids

    def ack(self, seq: object) -> None:
        self.delivery.take_in(f'{{"schema":"edge.ack/1","seq":{seq}}}'.encode())

    @property
    def pending(self) -> int:
        return self.box.stats().pending


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(open_box(tmp_path / "outbox"))


def put(rig: Rig, count: int) -> list[int]:
    return [rig.box.put(message(str(n))) for n in range(count)]


def test_the_brokers_word_is_enough_where_it_is_asked(tmp_path: Path) -> None:
    box = open_box(tmp_path / "outbox")
    last = [box.put(message()) for _ in range(3)][-1]
    by_broker = BrokerDelivery(box)
    by_broker.begin()

    assert [last - 2, last - 1, last] == [m.id for m in by_broker.next(10, 1 << 20)]
    by_broker.taken(last)

    assert box.stats().pending == 0


class TestCollector:
    def test_the_brokers_word_ends_nothing(self, rig: Rig) -> None:
        ids = put(rig, 3)

        assert ids == rig.send()
        assert rig.send() == []
        assert rig.pending == 3

    def test_what_it_acknowledged_is_done_with(self, rig: Rig) -> None:
        ids = put(rig, 3)
        rig.send()
        rig.ack(ids[1])

        assert rig.send() == []
        assert rig.pending == 1

    def test_a_new_connection_begins_behind_what_it_acknowledged(self, rig: Rig) -> None:
        ids = put(rig, 3)
        rig.send()
        rig.ack(ids[0])
        rig.send()
        rig.delivery.begin()

        assert ids[1:] == rig.send()

    def test_an_acknowledgement_counts_over_the_next_connection_too(self, rig: Rig) -> None:
        ids = put(rig, 3)
        rig.send()
        rig.delivery.begin()
        assert ids[:1] == rig.send(1)
        rig.ack(ids[2])  # lay on the broker

        assert ids[1:] == rig.send()
        rig.send()
        assert rig.pending == 0

    def test_silence_makes_it_begin_again_at_growing_intervals(self, rig: Rig) -> None:
        ids = put(rig, 2)
        assert ids == rig.send()
        rig.now_s += RESEND_AFTER_S + 1
        assert ids == rig.send()
        assert rig.health.reasons()[0].startswith("collector: no collector acknowledges")
        rig.now_s += RESEND_AFTER_S + 1
        assert rig.send() == []
        rig.now_s += RESEND_AFTER_S
        assert ids == rig.send()

        rig.ack(ids[0])
        rig.send()
        assert rig.health.reasons() == []
        rig.now_s += RESEND_AFTER_S + 1
        assert [ids[1]] == rig.send()

    def test_it_begins_again_only_when_the_broker_has_everything(self, rig: Rig) -> None:
        put(rig, 2)
        rig.delivery.next(10, 1 << 20)
        rig.now_s += RESEND_AFTER_S + 1

        assert rig.delivery.next(10, 1 << 20) == []

    def test_time_without_anything_to_acknowledge_is_no_silence(self, rig: Rig) -> None:
        rig.send()
        rig.now_s += 1000
        ids = put(rig, 1)
        assert ids == rig.send()

        assert rig.send() == []

    def test_no_more_goes_ahead_of_it_than_a_broker_queues(self, rig: Rig) -> None:
        ids = put(rig, delivery.MAX_AHEAD + 10)

        assert ids[: delivery.MAX_AHEAD] == rig.send()
        assert rig.send() == []
        rig.ack(ids[4])
        assert ids[delivery.MAX_AHEAD : delivery.MAX_AHEAD + 5] == rig.send()

    @pytest.mark.parametrize("seq", ["-1", "1e300", '"7"', "null", "true", str(2**53 - 1), str(2**64), "1.5", "[]"])
    def test_what_no_collector_says_does_no_harm(self, rig: Rig, seq: str) -> None:
        ids = put(rig, 2)
        rig.send()
        rig.ack(seq)

        assert rig.send() == []
        assert rig.pending == 2
        rig.ack(ids[1])
        rig.send()
        assert rig.pending == 0

    @pytest.mark.parametrize("payload", [b"", b"{", b"\xff" * 10, b"[" * 900, b" " * 5000, b'{"schema":"edge.ack/2"}'])
    def test_rubbish_does_no_harm(self, rig: Rig, payload: bytes) -> None:
        put(rig, 2)
        rig.send()
        rig.delivery.take_in(payload)

        assert rig.send() == []
        assert rig.pending == 2

    def test_a_number_that_was_not_sent_yet_is_not_believed_later_either(self, rig: Rig) -> None:
        ids = put(rig, 3)
        rig.send(1)
        rig.ack(ids[2])

        assert ids[1:] == rig.send()
        rig.send()
        assert rig.pending == 3

    def test_a_lower_number_than_before_changes_nothing(self, rig: Rig) -> None:
        ids = put(rig, 3)
        rig.send()
        rig.ack(ids[2])
        rig.ack(ids[0])
        rig.send()

        assert rig.pending == 0

    def test_a_snapshot_waits_for_what_is_behind_it(self, rig: Rig) -> None:
        before = rig.box.put(message())
        rig.box.put(snapshot())
        rig.send()
        rig.ack(before)
        rig.send()
        assert rig.pending == 1
        rig.now_s += 10 * RESEND_AFTER_S
        assert rig.send() == []

        behind = put(rig, 1)[0]
        rig.send()
        rig.ack(behind)
        rig.send()
        assert rig.pending == 0

    def test_snapshots_alone_do_not_stop_the_stream(self, rig: Rig) -> None:
        for _ in range(delivery.MAX_AHEAD + 1):
            rig.box.put(snapshot())

        assert len(rig.send()) == delivery.MAX_AHEAD
        assert len(rig.send()) == 1

    def test_what_a_bound_evicts_meanwhile_is_announced(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("agent.outbox.segment.SEGMENT_BYTES", 2000)
        rig = Rig(open_box(tmp_path / "outbox", max_bytes=6000))
        put(rig, 5)
        rig.send()
        for n in range(100):
            rig.box.put(message(str(n), size=100))
        rig.now_s += RESEND_AFTER_S + 1
        sent = rig.delivery.next(1000, 1 << 30)

        assert sent[0].topic == "gaps"
        rig.delivery.taken(sent[-1].id)
        rig.ack(sent[-1].id)
        rig.send()
        assert rig.pending == 0
