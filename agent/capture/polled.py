"""Sensors that are asked for a reading at an interval."""

import math
import threading
import time
from collections.abc import Sequence
from typing import Protocol

from agent.capture.readings import make_reading
from agent.errors import SourceError
from agent.values import Frame


class Sensor(Protocol):
    """Answers when asked. It belongs to one thread."""

    name: str
    channels: tuple[str, ...]

    def open(self) -> None:
        """Raises SourceError when it is away or refuses, SourceUnusable when it can never work as configured."""

    def measure(self) -> Sequence[float]:
        """A value for each channel, NaN for one that can't be had. Raises SourceError when it is lost."""

    def close(self) -> None:
        """Again, or without an open, it does nothing."""


class Ticker:
    """Wakes at fixed moments, an interval apart; those that were missed are left out. Setting `stop` ends a wait."""

    def __init__(self, interval_s: float, stop: threading.Event) -> None:
        self._interval_s, self._stop = interval_s, stop
        self._due_s: float | None = None

    def wait(self) -> bool:
        """Wait for the next moment, at first not at all; False as soon as `stop` is set."""
        now_s = time.monotonic()
        if self._due_s is None:
            self._due_s = now_s
        else:
            self._due_s += self._interval_s
            self._due_s += max(0.0, math.floor((now_s - self._due_s) / self._interval_s)) * self._interval_s
        return not self._stop.wait(max(0.0, self._due_s - now_s))


class Polled:
    """A source of a sensor's readings."""

    def __init__(self, sensor: Sensor, interval_s: float) -> None:
        self.name = sensor.name
        self.broken = 0
        self._sensor = sensor
        self._closed = threading.Event()
        self._ticker = Ticker(interval_s, self._closed)
        self._index = self._first_index = 0

    def open(self, first_index: int = 0) -> None:
        self._index = self._first_index = first_index
        self._sensor.open()

    def read(self) -> Frame | None:
        if not self._ticker.wait():
            raise SourceError(f"{self.name}: closed")
        values = self._sensor.measure()
        is_first = self._index == self._first_index
        frame = make_reading(values, self._sensor.channels, self._index, is_first=is_first)
        self._index += 1
        return frame

    def interrupt(self) -> None:
        self._closed.set()

    def close(self) -> None:
        self._closed.set()
        self._sensor.close()
