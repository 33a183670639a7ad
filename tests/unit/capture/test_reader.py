"""The guard: whatever a source does, the pipeline's thread gets its answer in time."""

import threading

import numpy as np
import pytest
from structlog.testing import capture_logs

from agent.capture import reader as reader_module
from agent.capture.frames import make_frame
from agent.capture.reader import MAX_STUCK, Reader
from agent.errors import SourceError, SourceUnusable
from tests.sim import wait_until

DATA = np.zeros((2, 2), np.uint8)
HANG = "hang"


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    """The guard's own waits, shortened: nothing here measures time."""
    monkeypatch.setattr(reader_module, "GRACE_S", 0.2)
    monkeypatch.setattr(reader_module, "_TICK_S", 0.01)
    monkeypatch.setattr(reader_module, "first_frame_s", lambda timeout_s: 2 * timeout_s)


@pytest.fixture
def stop():
    return threading.Event()


class FakeSource:
    """Plays a script: a number of frames, then the end (None), an error, or HANG: a read that only `let_go` ends."""

    name = "fake"

    def __init__(self, frames=0, then=None, *, in_open=None, wakes_up=True):
        self.broken = 0
        self.calls = []
        self.let_go = threading.Event()
        self._frames = frames
        self._then = then
        self._in_open = in_open
        self._wakes_up = wakes_up

    def open(self, first_index=0):
        self.calls.append("open")
        self._index = first_index
        self._do(self._in_open)

    def read(self):
        if self._frames == 0:
            self._do(self._then)
            return None if self._then is None else make_frame(DATA, self._index)
        self._frames -= 1
        self._index += 1
        return make_frame(DATA, self._index - 1)

    def interrupt(self):
        if self._wakes_up:
            self.let_go.set()

    def close(self):
        self.calls.append("close")

    def _do(self, what):
        if isinstance(what, BaseException):
            raise what
        if what is HANG:
            self.let_go.wait(30)


def reader_of(*sources, sink=None):
    """A reader that gets these sources one after the other, and the list of what reached its sink."""
    frames = []
    queue = list(sources)
    return Reader(lambda: queue.pop(0), sink or frames.append), frames


def run(reader, stop, timeout_s=0.1):
    reader.start()
    return reader.watch(stop, timeout_s)


def test_all_frames_of_a_recording_reach_the_sink_in_order_and_the_source_is_closed(stop):
    source = FakeSource(5)
    reader, frames = reader_of(source)
    assert run(reader, stop) == "ended"
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]
    assert source.calls == ["open", "close"]


def test_numbers_go_on_rising_over_tries(stop):
    reader, frames = reader_of(FakeSource(2, SourceError("lost")), FakeSource(0, SourceError("away")), FakeSource(3))
    for _ in range(2):
        with pytest.raises(SourceError):
            run(reader, stop)
    assert run(reader, stop) == "ended"
    assert [frame.index for frame in frames] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [SourceError("lost"), SourceUnusable("never"), ZeroDivisionError("a mistake")])
@pytest.mark.parametrize("where", ["open", "read"])
def test_what_ends_the_thread_is_raised_in_the_watching_thread(stop, error, where):
    source = FakeSource(0, in_open=error) if where == "open" else FakeSource(2, error)
    reader, _ = reader_of(source)
    with pytest.raises(type(error)) as caught:
        run(reader, stop)
    assert caught.value is error
    assert source.calls == ["open", "close"]


def test_a_mistake_in_the_sink_is_raised_too(stop):
    source = FakeSource(2)
    reader, _ = reader_of(source, sink=lambda frame: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(reader, stop)
    assert source.calls == ["open", "close"]


def test_a_silent_source_is_given_up_after_the_timeout(stop):
    source = FakeSource(3, HANG)
    reader, frames = reader_of(source)
    with pytest.raises(SourceError, match=r"^fake: no frame for 0\.1 s$"):
        run(reader, stop)
    assert len(frames) == 3
    assert source.calls == ["open", "close"]
    assert reader.stuck == 0


@pytest.mark.parametrize("source", [FakeSource(in_open=HANG), FakeSource(0, HANG)], ids=["open", "read"])
def test_opening_and_the_first_frame_get_longer(stop, source):
    reader, _ = reader_of(source)
    with pytest.raises(SourceError, match=r"no frame for 0\.2 s"):
        run(reader, stop)


def test_without_a_timeout_a_source_may_be_silent_until_stop(stop):
    reader, _ = reader_of(FakeSource(1, HANG))
    threading.Timer(0.3, stop.set).start()
    assert run(reader, stop, timeout_s=None) == "stopped"


def test_stop_ends_an_endless_source(stop):
    source = FakeSource(-1)
    reader, frames = reader_of(source)
    reader.start()
    wait_until(lambda: frames)
    stop.set()
    assert reader.watch(stop, 0.1) == "stopped"
    assert source.calls == ["open", "close"]


def test_late_frames_of_a_hanging_read_never_reach_the_sink_and_it_closes_its_source_itself(stop):
    source = FakeSource(2, HANG, wakes_up=False)
    reader, frames = reader_of(source)
    with capture_logs() as logs, pytest.raises(SourceError, match="no frame"):
        run(reader, stop)
    assert logs == [{"event": "capture.thread_left_behind", "log_level": "warning", "source": "fake", "stuck": 1}]
    assert (reader.stuck, source.calls) == (1, ["open"])
    source.let_go.set()
    wait_until(lambda: reader.stuck == 0)
    assert source.calls == ["open", "close"]
    assert [frame.index for frame in frames] == [0, 1]


def test_with_three_hanging_threads_no_more_is_started_until_one_comes_back(stop):
    hanging = [FakeSource(0, HANG, wakes_up=False) for _ in range(MAX_STUCK)]
    refused, last = FakeSource(1), FakeSource(1)
    reader, frames = reader_of(*hanging, refused, last)
    for _ in hanging:
        with pytest.raises(SourceError, match="no frame"):
            run(reader, stop)
    with pytest.raises(SourceError, match="fake: 3 reads hang in it; waiting for one to come back"):
        reader.start()
    assert refused.calls == []
    hanging[1].let_go.set()
    wait_until(lambda: reader.stuck == MAX_STUCK - 1)
    assert run(reader, stop) == "ended"
    assert len(frames) == 1
    for source in hanging:
        source.let_go.set()
    wait_until(lambda: reader.stuck == 0)


def test_a_slow_sink_is_not_the_sources_fault(stop):
    taken, release = [], threading.Event()

    def sink(frame):
        taken.append(frame)
        release.wait(30)

    reader, _ = reader_of(FakeSource(2), sink=sink)
    threading.Timer(0.5, release.set).start()
    assert run(reader, stop, timeout_s=0.1) == "ended"
    assert len(taken) == 2


def test_broken_frames_are_counted_over_all_tries(stop):
    first, second = FakeSource(1, SourceError("lost")), FakeSource(1)
    first.broken, second.broken = 2, 3
    reader, _ = reader_of(first, second)
    with pytest.raises(SourceError):
        run(reader, stop)
    assert reader.broken == 2
    reader.start()
    assert reader.broken == 5
    reader.watch(stop, 0.1)
    assert reader.broken == 5


def test_start_and_watch_take_turns(stop):
    reader, _ = reader_of(FakeSource(1), FakeSource(1))
    with pytest.raises(RuntimeError):
        reader.watch(stop, 0.1)
    reader.start()
    with pytest.raises(RuntimeError):
        reader.start()
    assert reader.watch(stop, 0.1) == "ended"
