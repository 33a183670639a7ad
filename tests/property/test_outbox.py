"""Any order of putting, reading, acknowledging, evicting, restarting and damage: nothing is lost silently."""

import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.outbox import segment
from agent.outbox.record import StoredMessage, find_record
from agent.outbox.store import Outbox
from tests.unit.outbox.support import fields, is_gap, message, open_box, read_all, snapshot

SEGMENT_BYTES = 1500
MAX_BYTES = 6000


def ids_on_disk(folder: Path) -> set[int]:
    found, ids = None, set()
    for path in folder.glob("*.seg"):
        data, at = path.read_bytes(), 0
        while found := find_record(data, at):
            at = found[2]
            ids.add(found[0].id)
    return ids


class OutboxMachine(RuleBasedStateMachine):
    """The model knows what was accepted; what the bounds evict it learns from the gaps, and checks that against it."""

    durability = "balanced"

    def __init__(self) -> None:
        super().__init__()
        self.original = segment.SEGMENT_BYTES
        segment.SEGMENT_BYTES = SEGMENT_BYTES
        fast = Path("/dev/shm")
        self.root = Path(tempfile.mkdtemp(dir=fast if fast.is_dir() else None))
        self.folder = self.root / "0"
        self.box = self.open()
        self.chained: list[int] = []  # accepted, and not taken away again unannounced by a lost tail
        self.others: set[int] = set()
        self.damaged: set[int] = set()
        self.highest = 0
        self.after = 0
        self.handed: set[int] = set()
        self.first_prev: dict[int, int] = {}  # what each gap that was seen begins behind
        self.chain_at_check = 0
        self.sent: dict[tuple[int, bool], bytes] = {}

    def open(self) -> Outbox:
        return open_box(self.folder, max_bytes=MAX_BYTES, durability=self.durability)

    def teardown(self) -> None:
        self.read_everything()
        self.box.close()
        segment.SEGMENT_BYTES = self.original
        shutil.rmtree(self.root)

    @initialize(acked=st.booleans())
    def begin(self, acked: bool) -> None:
        """Sometimes with something acknowledged already."""
        self.put(chained=True, size=10)
        if acked:
            self.read(1)
            self.ack(1.0)

    @rule(chained=st.booleans() | st.just(True), size=st.sampled_from([0, 50, 400, 1400, 2500]))
    def put(self, chained: bool, size: int) -> None:
        id_ = self.box.put(message(size=size) if chained else snapshot(b"x" * size))
        assert id_ > self.highest, "an id came back"
        self.highest = id_
        if chained:
            self.chained.append(id_)
        else:
            self.others.add(id_)

    @rule(count=st.integers(1, 12))
    def put_several(self, count: int) -> None:
        for _ in range(count):
            self.put(chained=True, size=100)

    @rule(count=st.integers(1, 8))
    def read(self, count: int) -> None:
        found = self.box.next(self.after, count, 1 << 30)
        assert len(found) <= count
        self.check_bytes(found)
        self.handed = {id_ for id_ in self.handed if id_ <= self.after}
        for stored in found:
            assert self.after < stored.id
            self.after = stored.id
            self.handed.add(stored.id)

    @precondition(lambda self: self.handed)
    @rule(share=st.floats(0.0, 1.0))
    def ack(self, share: float) -> None:
        id_ = sorted(self.handed)[round(share * (len(self.handed) - 1))]
        before = self.box.acked
        self.box.ack(id_)
        assert max(before, id_) == self.box.acked

    @rule()
    def reconnect(self) -> None:
        self.after = self.box.acked

    @rule(kill=st.booleans())
    def restart(self, kill: bool) -> None:
        """A kill leaves the folder as it is at any moment; its copy is that."""
        following = self.root / str(int(self.folder.name) + 1)
        if kill:
            shutil.copytree(self.folder, following)
            self.box.close()
        else:
            self.box.close()
            self.folder.rename(following)
        self.folder = following
        self.reopen()

    @rule(cut=st.integers(1, 700))
    def lose_the_tail(self, cut: int) -> None:
        self.box.close()
        paths = sorted(self.folder.glob("*.seg"))
        if paths:
            data = paths[-1].read_bytes()
            paths[-1].write_bytes(data[: max(0, len(data) - cut)])
        self.reopen()

    @rule(file=st.floats(0.0, 1.0), place=st.floats(0.0, 1.0), bit=st.integers(0, 7))
    def flip_a_bit(self, file: float, place: float, bit: int) -> None:
        self.box.close()
        paths = sorted(self.folder.glob("*.seg"))
        if paths:
            path = paths[round(file * (len(paths) - 1))]
            data = bytearray(path.read_bytes())
            data[round(place * (len(data) - 1))] ^= 1 << bit
            path.write_bytes(data)
        self.reopen()

    @rule(file=st.floats(0.0, 1.0))
    def lose_a_file(self, file: float) -> None:
        self.box.close()
        paths = sorted(self.folder.glob("*.seg"))
        if paths:
            paths[round(file * (len(paths) - 1))].unlink()
        self.reopen()

    def reopen(self) -> None:
        """What lies behind the last thing that is left can't be known to have been there."""
        state = self.box._state
        there = ids_on_disk(self.folder)
        last = max([state.done, *there])
        self.chained = [id_ for id_ in self.chained if id_ <= last]
        self.others = {id_ for id_ in self.others if id_ <= last}
        self.damaged |= {id_ for id_ in (*self.chained, *self.others) if id_ > state.done and id_ not in there}
        self.damaged -= there  # a bit that was flipped back
        self.box = self.open()
        assert state.acked == self.box.acked
        self.after = self.box.acked
        self.handed.clear()
        self.sent = {key: payload for key, payload in self.sent.items() if not key[1]}

    def check_bytes(self, found: list[StoredMessage]) -> None:
        """A repetition is the same bytes; a gap counts exactly what is gone."""
        for stored in found:
            assert stored.payload == self.sent.setdefault((stored.id, is_gap(stored)), stored.payload)
            if is_gap(stored):
                gap = fields(stored)
                gone = [id_ for id_ in self.chained if gap["from"] <= id_ <= gap["to"]]
                assert (len(gone), gone[-1]) == (gap["count"], stored.id)

    @rule()
    def read_everything(self) -> None:
        """All that was accepted is there or announced."""
        acked = self.box.acked
        found = read_all(self.box)
        self.check_bytes(found)
        self.handed = {stored.id for stored in found}
        records = {stored.id for stored in found if not is_gap(stored)}
        gone: set[int] = set()
        prev = max((id_ for id_ in self.chained if id_ <= acked), default=0)
        for stored in found:
            if stored.id in self.others:
                assert stored.topic == "snapshots"
                continue
            told = fields(stored)
            assert stored.id == told["seq"]
            if told["prev"] != prev:  # part of it was acknowledged after it was made
                assert is_gap(stored)
                assert self.chain_at_check <= told["prev"] or told["prev"] in self.first_prev.values()
                assert told["prev"] <= acked < told["to"]
            if is_gap(stored):
                self.first_prev[stored.id] = told["prev"]
                gone |= {id_ for id_ in self.chained if told["from"] <= id_ <= told["to"]}
            prev = stored.id
        self.chain_at_check = max((id_ for id_ in self.chained if id_ <= acked), default=0)
        waiting = {id_ for id_ in self.chained if id_ > acked}
        assert waiting == (records & waiting) | (gone & waiting)
        assert not gone & records
        assert not records & self.damaged
        assert records <= waiting | self.others
        assert len(records) <= self.box.stats().pending <= len(records) + len(self.damaged)

    @invariant()
    def the_bounds_hold(self) -> None:
        stats = self.box.stats()
        assert stats.bytes <= MAX_BYTES
        files = sum(len(path.read_bytes().rstrip(b"\0")) for path in self.folder.glob("*.seg"))
        assert stats.bytes == files


class PowerOutboxMachine(OutboxMachine):
    """With files whose space is allocated before."""

    durability = "power"


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPowerOutbox = PowerOutboxMachine.TestCase
TestPowerOutbox.settings = TestOutbox.settings
