"""Reports at intervals, on a clock that the test turns."""

import threading
import time

import pytest

from agent.telemetry.reporter import FIRST_AFTER_S, report_loop


class TurnedStop(threading.Event):
    """A stop event on which waiting turns the clock instead; set after so many seconds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, until_s: float) -> None:
        super().__init__()
        self.now_s, self.until_s = 100.0, 100.0 + until_s
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        assert timeout >= 0
        if self.now_s + timeout > self.until_s:
            self.set()
        else:
            self.now_s += timeout
        return self.is_set()


def reports(monkeypatch: pytest.MonkeyPatch, interval_s: float, until_s: float, takes_s: list[float]) -> list[float]:
    """When, after the start, reports were made that took so long."""
    stop = TurnedStop(monkeypatch, until_s)
    times: list[float] = []
    durations = iter(takes_s)

    def report() -> None:
        times.append(round(stop.now_s - 100.0, 3))
        stop.now_s += next(durations, 0.0)

    report_loop(interval_s, report, stop)
    return times


def test_the_first_report_comes_soon_and_then_one_every_interval(monkeypatch: pytest.MonkeyPatch):
    assert [FIRST_AFTER_S + 30 * number for number in range(4)] == reports(monkeypatch, 30.0, 100.0, [])


def test_with_a_short_interval_the_first_comes_after_it(monkeypatch: pytest.MonkeyPatch):
    assert reports(monkeypatch, 1.0, 3.5, []) == [1.0, 2.0, 3.0]


def test_slow_reports_do_not_shift_the_later_ones(monkeypatch: pytest.MonkeyPatch):
    assert reports(monkeypatch, 10.0, 35.0, [3.0, 9.9, 0.0]) == [2.0, 12.0, 22.0, 32.0]


def test_reports_that_were_missed_are_left_out(monkeypatch: pytest.MonkeyPatch):
    assert reports(monkeypatch, 10.0, 55.0, [25.0]) == [2.0, 32.0, 42.0, 52.0]


def test_stop_ends_the_wait_at_once():
    stop = threading.Event()
    made: list[None] = []
    thread = threading.Thread(target=report_loop, args=(3600.0, lambda: made.append(None), stop))
    thread.start()
    stop.set()
    thread.join(10)
    assert not thread.is_alive()
    assert made == []


def test_what_a_report_raises_ends_the_loop():
    def fails() -> None:
        raise KeyError("report")

    with pytest.raises(KeyError):
        report_loop(0.01, fails, threading.Event())
