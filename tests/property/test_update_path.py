"""The update path walked by Hypothesis, with the process killed or the disk refusing at any change of the disk.

Real: the table, the record, the store, the transfer, signatures. Simulated: the broker, which holds retained chunks,
and what only running workers can tell (trial, start, health window), which the bundle's own bytes decide here.
"""

import errno
import hashlib
import itertools
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from agent.errors import UpdateFailed, UpdateRefused
from agent.runtime.backoff import Backoff
from agent.runtime.clock import Clock
from agent.updates import standing, updater
from agent.updates.receive import ChunkBox
from agent.updates.standing import Standing
from agent.updates.store import ModelStore
from agent.updates.trust import TrustStore
from agent.updates.updater import ModelUpdate, Surroundings
from agent.updates.verify import DeviceFacts
from agent.wire.archive import write_archive
from agent.wire.releases import CHUNK_BYTES
from agent.wire.topics import Topics
from tests.power.store_writer import MODEL, write_bundle
from tests.sim.disk import Trouble, killed_at, trouble
from tests.sim.keys import Authority

TOPICS = Topics("edge", "cam-1")
ENDS = {"good": "active", "bad in trial": "rejected", "bad at start": "rolled_back", "bad when live": "rolled_back"}
"""What becomes of a release by what its bytes are, when nothing comes between."""
KINDS = st.sampled_from(list(ENDS))
LARGE_BYTES = 2 * CHUNK_BYTES + 100


class Retained:
    """A broker with retained messages, as far as an update needs it."""

    connects, connected = 1, True
    denied: Mapping[str, str] = {}

    def __init__(self, messages: Mapping[str, bytes], box: ChunkBox) -> None:
        self._messages, self._box = messages, box

    def want(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self._box.put(topic, self._messages[topic])

    def unwant(self, topics: Iterable[str]) -> None:
        pass


class SimulatedTrial:
    """Takes two steps."""

    def __init__(self, folder: Path, *_: object) -> None:
        self._kind, self._steps = kind_of(folder), itertools.count(1)

    def step(self, _: Callable[[], bool]) -> bool:
        if self._kind == "bad in trial":
            raise UpdateRefused("golden", "agreement 0.1 of 0.99")
        return next(self._steps) == 2

    def close(self) -> None:
        pass


class SimulatedWatch:
    """Of what the workers run."""

    kind = ""

    def __init__(self, *_: object) -> None:
        self._checks = itertools.count(1)

    def check(self) -> bool:
        if self.kind != "good":
            raise UpdateRefused("health", "20 of 20 frames have no answer")
        return next(self._checks) == 2


def simulated_activate(_: object, folder: Path, *__: object) -> None:
    if kind_of(folder) == "bad at start":
        raise UpdateRefused("crashed", "signal 11")
    SimulatedWatch.kind = kind_of(folder)


def kind_of(folder: Path) -> str:
    return (folder / "model.tflite").read_bytes().split(b"\n")[0].decode()


@pytest.fixture(autouse=True, scope="module")
def simulated_workers() -> Iterable[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updater, "Trial", SimulatedTrial)
        patch.setattr(updater, "HealthWatch", SimulatedWatch)
        patch.setattr(standing, "activate", simulated_activate)
        patch.setattr(updater, "_STUCK_S", 0.0)  # what the disk refused is tried again at once
        yield


@dataclass(frozen=True)
class Pushed:
    """A release that the operator has signed."""

    number: int
    kind: str
    sha256: str
    raw: bytes


class Device:
    """A device and its operator, with what must hold of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, Authority()
        folder.mkdir(exist_ok=True)
        (folder / "trust.json").write_bytes(self.authority.trust_file)
        self.home = folder / "models" / MODEL
        write_bundle(self.home / "0-factory", "0-factory", b"good\nfactory")
        (self.home / "current").write_text("0-factory\n")
        self._retained: dict[str, bytes] = {}
        self.pushed: list[Pushed] = []
        self.kinds: dict[str, str] = {}  # by digest
        self.floor = self.confirmed = 0
        self.update = self.boot()

    # --- the operator ---------------------------------------------------------------------------------------------

    def sign(self, kind: str, version: str, *, large: bool = False, **fields: Any) -> Pushed:
        """A bundle that nobody has seen before, or the same bytes for the same number of releases."""
        number = len(self.pushed) + 1
        scratch = self.folder / "operator"
        shutil.rmtree(scratch, ignore_errors=True)
        content = f"{kind}\n{number}".encode() + b"\0" * (LARGE_BYTES if large else 0)
        write_bundle(scratch, version, content)
        out = BytesIO()
        sha256, size = write_archive(scratch, out)
        data = out.getvalue()
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, size, CHUNK_BYTES)]
        chunk_list = b"".join(hashlib.sha256(chunk).digest() for chunk in chunks)
        list_sha256 = hashlib.sha256(chunk_list).hexdigest()
        self._retained[TOPICS.chunk(list_sha256, 0)] = chunk_list
        for index, chunk in enumerate(chunks):
            self._retained[TOPICS.chunk(sha256, index)] = chunk
        archive = {"sha256": sha256, "size_bytes": size, "chunk_list_sha256": list_sha256}
        return self.sign_again(kind, sha256, version=version, archive=archive, **fields)

    def sign_again(self, kind: str, sha256: str, **fields: Any) -> Pushed:
        raw = self.authority.release(MODEL, len(self.pushed) + 1, **fields)
        self.pushed.append(Pushed(len(self.pushed) + 1, kind, sha256, raw))
        self.kinds[sha256] = kind
        return self.pushed[-1]

    # --- the device -----------------------------------------------------------------------------------------------

    def boot(self) -> ModelUpdate:
        """The daemon starts. What was in the memory of the one before is gone."""
        box, stop = ChunkBox(), threading.Event()
        around = Surroundings(
            topics=TOPICS,
            wires=Retained(self._retained, box),
            box=box,
            stop=stop,
            device=DeviceFacts("cam-1", [], [], "1.0"),
            trust=TrustStore(self.folder / "trust.json", self.folder / "models"),
            max_bytes=1 << 20,
        )
        update = ModelUpdate(Standing(ModelStore(self.folder / "models", MODEL), Clock(), stop), around)
        update._backoff = Backoff(0.0, 0.0)  # what failed is tried again at once
        update.begin()
        running = update.at.running
        assert running, "there is no model to run"
        SimulatedWatch.kind = kind_of(self.home / running.folder)  # the daemon makes workers of it
        return update

    def offer(self, pushed: Pushed) -> str | None:
        """Gives the reason code when it is not taken."""
        try:
            self.update.take(pushed.raw)
        except UpdateRefused as exc:
            return exc.reason_code
        except UpdateFailed as exc:
            return exc.reason_code
        return None

    def work(self, steps: int = 60) -> None:
        """Until nothing is to be done, or so many pieces of work."""
        for _ in range(steps):
            if self.update.row is None:
                break
            self.update.step()

    def restart(self) -> None:
        if self.update._transfer:
            self.update._transfer.close()  # the kernel does that for a process that is killed
        self.update = self.boot()

    def state(self) -> str | None:
        candidate = self.update.store.record.candidate
        return candidate and candidate.state

    # --- what must hold -------------------------------------------------------------------------------------------

    def check(self) -> None:
        """At any time."""
        record, running = self.update.store.record, self.update.at.running
        assert running, "there is no model to run"
        assert self.update.store.is_whole(running), f"{running} is not whole"
        assert record.floor >= self.floor, "the floor sank"
        self.floor = record.floor
        live = record.live.release or 0 if record.live else 0
        assert live >= self.confirmed, f"release {self.confirmed} was confirmed, {live} is live"
        self.confirmed = live
        if live:
            assert record.live
            assert self.kinds[record.live.sha256] == "good", "a bad model is live for good"
        assert self.kinds.get(running.sha256) != "bad in trial", "it runs what failed its trial"
        for digest, why in record.quarantine.items():  # after three bad starts nobody asks whose fault it was
            assert self.kinds[digest] != "good" or why == "crash_loop", "good bytes are in quarantine"

    def check_after_start(self) -> None:
        """The disk says what the memory says, and nothing is left over."""
        self.check()
        saved = ModelStore(self.folder / "models", MODEL).record
        assert saved.gen == 0 or saved == self.update.store.record  # what `current` names is not saved for itself
        record, candidate = self.update.store.record, self.update.store.record.candidate
        running = self.update.at.running
        if saved.gen and running:
            assert (self.home / "current").read_text() == f"{running.folder}\n", "`current` names something else"
        needed = {slot.folder for slot in record.slots} | {"0-factory", ".incoming"}
        awaited = candidate.sha256 if candidate and not candidate.is_over and not candidate.slot else "none"
        for path in self.home.iterdir():
            left = path.is_dir() and path.name not in needed and awaited not in _mark(path)
            assert not left, f"{path.name} is left over"
            assert not path.name.endswith(".tmp")
        for path in (self.home / ".incoming").glob("*"):
            assert path.name.startswith(awaited), f"{path.name} is left over"


def _mark(folder: Path) -> str:
    return (folder / ".release").read_text() if (folder / ".release").exists() else ""


# --- one release, killed before each of its changes to the disk -------------------------------------------------------


def walk(folder: Path, kind: str, at: int) -> tuple[Device, Trouble]:
    """A device with a good release, and one that is offered and worked on until the `at`-th change."""
    device = Device(folder)
    assert device.offer(device.sign("good", "1.0")) is None
    device.work()
    assert device.update.at.confirmed
    pushed = device.sign(kind, "2.0", large=True)
    with killed_at(at) as going:
        device.offer(pushed)
        device.work()
    return device, going


SLOW = pytest.mark.slow
IN_SHORT = ("good", "bad when live")
"""The longest ways; those of the others are parts of them."""


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[SLOW] * (kind not in IN_SHORT)) for kind in ENDS])
def test_killed_before_each_change_it_comes_to_the_same_end(tmp_path: Path, kind: str) -> None:
    for at in itertools.count(1):
        device, going = walk(tmp_path / str(at), kind, at)
        device.restart()
        device.check_after_start()
        device.offer(device.pushed[-1])  # the broker hands it out at every connection
        device.work()
        device.check()
        assert device.state() == ENDS[kind]
        assert device.update.store.record.floor == 2
        shutil.rmtree(tmp_path / str(at))
        if not going.happened:
            break
    assert at > 20, "so many changes there are at least"


# --- anything in any order --------------------------------------------------------------------------------------------


class UpdatePath(RuleBasedStateMachine):
    """What operators, attackers, power and the disk may do, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = Path(tempfile.mkdtemp())

    def teardown(self) -> None:
        shutil.rmtree(self._folder)

    @initialize()
    def begin(self) -> None:
        self.device = Device(self._folder)

    @rule(kind=KINDS, version=st.sampled_from(["1.0", "2.0", "3.0"]), large=st.booleans())
    def push(self, kind: str, version: str, large: bool) -> None:
        pushed = self.device.sign(kind, version, large=large)
        assert self.device.offer(pushed) is None
        assert self.device.update.store.record.floor == pushed.number

    @rule(data=st.data())
    @precondition(lambda self: self.device.pushed)
    def replay(self, data: st.DataObject) -> None:
        """An attacker has all messages that there ever were."""
        pushed = data.draw(st.sampled_from(self.device.pushed))
        before = self.device.update.store.record
        code = self.device.offer(pushed)
        if pushed.number < before.floor:
            assert code in ("rollback", "quarantined")
            assert self.device.update.store.record == before

    @rule(steps=st.integers(1, 8))
    def work(self, steps: int) -> None:
        self.device.work(steps)

    @rule()
    def work_to_the_end(self) -> None:
        self.device.work()
        if not self.device.update.store.record.pinned:
            assert self.device.update.row is None, "it comes to an end"
        event(f"ends in {self.device.state()}")

    @rule(kind=KINDS, at=st.integers(1, 60))
    def push_and_be_killed(self, kind: str, at: int) -> None:
        pushed = self.device.sign(kind, "2.0", large=True)
        with killed_at(at):
            self.device.offer(pushed)
            self.device.work()
        self.start_again()

    @rule(at=st.integers(1, 40))
    def work_and_be_killed(self, at: int) -> None:
        with killed_at(at):
            self.device.work()
        self.start_again()

    @rule(at=st.integers(1, 40), code=st.sampled_from([errno.ENOSPC, errno.EIO]), lasting=st.booleans())
    def work_on_a_bad_disk(self, at: int, code: int, lasting: bool) -> None:
        with trouble(at, OSError(code, "the disk refuses"), lasting=lasting):
            self.device.work(20)

    @rule(at=st.integers(1, 12))
    def be_killed_while_starting(self, at: int) -> None:
        with killed_at(at):
            self.device.restart()
        self.start_again()

    @rule()
    def stop_and_start(self) -> None:
        self.device.update.close()
        self.start_again()

    @rule()
    def start_again(self) -> None:
        event(f"killed in {self.device.state()}")
        self.device.restart()
        self.device.check_after_start()

    @rule(pinned=st.booleans())
    def pin(self, pinned: bool) -> None:
        self.device.update.pin(pinned)

    @rule()
    def roll_back(self) -> None:
        device, record = self.device, self.device.update.store.record
        confirmed_before = device.update.row is None and record.previous is not None
        try:
            running = device.update.roll_back()
        except (UpdateRefused, UpdateFailed):
            return
        if confirmed_before:  # an operator may go back behind what was confirmed
            device.confirmed = (running and running.release) or 0

    @invariant()
    def all_holds(self) -> None:
        if hasattr(self, "device"):
            self.device.check()


TestUpdatePath = UpdatePath.TestCase
TestUpdatePath.settings = settings(
    max_examples=60,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.reuse, Phase.generate],  # each example writes files: to shrink one takes many minutes
)
