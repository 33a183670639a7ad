"""Sound pictures, stamps and pacing."""

import threading
import time

import numpy as np
import pytest

from agent.capture.frames import Pacer, first_frame_s, fits, is_sound, make_frame


@pytest.mark.parametrize("shape", [(480, 640, 3), (480, 640), (1, 1, 3), (8192, 1)])
def test_colour_and_gray_pictures_are_sound(shape):
    assert is_sound(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("shape", [(480, 640, 4), (480, 640, 2), (640,), (0, 640, 3), (8193, 1), (1, 8193, 3)])
def test_other_shapes_and_sizes_are_not(shape):
    assert not is_sound(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.int8])
def test_other_dtypes_are_not(dtype):
    assert not is_sound(np.zeros((2, 2, 3), dtype))


def test_no_picture_is_not_sound():
    assert not is_sound(None)


def test_a_frame_fits_up_to_8192_pixels_each_way():
    assert [fits(*size_wh) for size_wh in ((1, 1), (8192, 8192), (8193, 1), (1, 8193), (0, 5))] == [1, 1, 0, 0, 0]


def test_the_first_frame_gets_ten_seconds_or_twice_the_timeout():
    assert [first_frame_s(timeout_s) for timeout_s in (0.5, 5.0, 20.0)] == [10.0, 10.0, 40.0]


def test_a_frame_captured_a_second_ago_is_stamped_a_second_ago_on_both_clocks():
    data = np.zeros((2, 2), np.uint8)
    ago_ns = time.monotonic_ns() - 1_000_000_000
    before_ns = time.time_ns()
    frame = make_frame(data, 7, ago_ns, position_ns=5)
    assert (frame.index, frame.captured_ns, frame.position_ns) == (7, ago_ns, 5)
    assert frame.data is data
    assert frame.captured_at_ns <= before_ns - 900_000_000


def test_a_frame_without_a_time_is_captured_now():
    before_ns = time.monotonic_ns()
    frame = make_frame(np.zeros((2, 2), np.uint8), 0)
    assert before_ns <= frame.captured_ns <= time.monotonic_ns()


class FakeStop(threading.Event):
    """Never waits; remembers how long it was asked to, and lets its clock go on by that."""

    def __init__(self, monkeypatch):
        super().__init__()
        self.now_s = 100.0
        self.waits = []
        monkeypatch.setattr("agent.capture.frames.time.monotonic", lambda: self.now_s)

    def wait(self, timeout=None):
        self.waits.append(round(timeout, 6))
        self.now_s += timeout
        return self.is_set()


def test_frames_come_at_their_positions_however_long_the_work_between_them_takes(monkeypatch):
    stop = FakeStop(monkeypatch)
    pacer = Pacer(stop)
    for position_s in (0.0, 0.1, 0.2, 0.3):
        assert pacer.wait(position_s)
        stop.now_s += 0.04
    assert stop.waits == [0.0, 0.06, 0.06, 0.06]


def test_a_little_late_is_caught_up_but_a_long_gap_is_not_made_up_in_a_burst(monkeypatch):
    stop = FakeStop(monkeypatch)
    pacer = Pacer(stop)
    pacer.wait(0.0)
    stop.now_s += 0.25
    assert pacer.wait(0.1)
    assert pacer.wait(0.2)
    assert pacer.wait(0.3)
    stop.now_s += 60.0
    assert pacer.wait(0.4)
    assert pacer.wait(0.5)
    assert stop.waits == [0.0, 0.0, 0.0, 0.05, 0.0, 0.1]


def test_a_set_stop_ends_a_wait():
    stop = threading.Event()
    pacer = Pacer(stop)
    assert pacer.wait(0.0)
    threading.Timer(0.05, stop.set).start()
    assert not pacer.wait(3600.0)
