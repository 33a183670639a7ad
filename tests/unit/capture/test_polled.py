"""Asking at an interval: without drift, without bursts, and never longer than told."""

import threading
import time

import pytest

from agent.capture import polled
from agent.capture.polled import Polled, Ticker
from agent.errors import SourceError


class Clock:
    """Stands in for `time`, and for the event that is waited for: waiting makes it later."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.is_set = False

    def monotonic(self) -> float:
        return self.now_s

    def wait(self, timeout_s: float) -> bool:
        self.now_s += timeout_s
        return self.is_set


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(polled, "time", clock)
    return clock


def test_moments_are_an_interval_apart_however_long_the_work_takes(clock):
    ticker, woken = Ticker(0.5, clock), []
    for work_s in (0.1, 0.4, 0.0, 0.3):
        assert ticker.wait()
        woken.append(clock.now_s)
        clock.now_s += work_s
    assert woken == pytest.approx([1000.0, 1000.5, 1001.0, 1001.5])


def test_moments_that_were_missed_are_left_out_and_the_rest_keep_to_the_grid(clock):
    ticker, woken = Ticker(0.5, clock), []
    for work_s in (1.7, 0.1, 0.1):
        assert ticker.wait()
        woken.append(clock.now_s)
        clock.now_s += work_s
    assert woken == pytest.approx([1000.0, 1001.7, 1002.0])


def test_setting_stop_ends_a_wait(clock):
    clock.is_set = True
    assert not Ticker(0.5, clock).wait()


class Sensor:
    """Counts."""

    name, channels = "counter", ("n",)

    def __init__(self) -> None:
        self.asked = 0

    def open(self) -> None:
        pass

    def close(self) -> None:
        pass

    def measure(self) -> list[float]:
        self.asked += 1
        return [float(self.asked)]


def test_a_long_interval_does_not_hold_up_an_interrupt():
    source = Polled(Sensor(), 3600.0)
    source.open()
    assert source.read().data[0, 0] == 1.0
    threading.Timer(0.05, source.interrupt).start()
    started_s = time.monotonic()
    with pytest.raises(SourceError, match="counter: closed"):
        source.read()
    assert time.monotonic() - started_s < 5.0
