"""Series as the agent would see them: its own CSV reader and its own windows, with the label cut along.

A label is one more channel. So it goes through the same averaging as the values, and what it says of a window is said
of the very samples that the model gets.
"""

import math
from array import array
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.capture.table import Table
from agent.capture.windows import Windows
from agent.config import CsvSource
from agent.values import Frame, Samples, Window


class LabelledWindow(NamedTuple):
    """What the model gets, and what it should say of it."""

    samples: Samples
    """T x channels, in the sensors' own units."""
    anomalous_share: float
    """How many of its samples are labelled an anomaly, 0 to 1; without labels 0."""
    end_s: float
    """Where its last sample lies in the recording."""

    @property
    def is_anomaly(self) -> bool:
        """One sample or more of it is labelled so."""
        return self.anomalous_share > 0.0


class Series(NamedTuple):
    """A recording, cut into windows."""

    windows: list[LabelledWindow]
    """In order."""
    broken_rows: int
    left_out: int
    """Windows with missing values, or without a label for one of their samples."""


def read_series(source: CsvSource, window: Window, label_column: str | None) -> Series:
    """All windows of a recording. A row is labelled an anomaly when its label is a number other than 0.

    Args:
        source: the file and how it is read; its `channels` are chosen here.
        window: as the model takes them.
        label_column: header of the labels; None: there are none.

    Raises:
        SourceError: the file can't be used, or lacks one of these columns.
    """
    columns = window.channels + (() if label_column is None else (label_column,))
    table = Table(msgspec.structs.replace(source, channels=columns, realtime=False, loop=False))
    wanted, cutter, count = msgspec.structs.replace(window, channels=columns), Windows(), len(window.channels)
    windows: list[LabelledWindow] = []
    without_label = 0
    for reading in _readings(table):
        labels = reading.data[:, count:]
        np.sign(np.abs(labels), out=labels)
        for frame in cutter.cut(reading, wanted):
            share = float(frame.data[:, count:].mean()) if label_column else 0.0
            samples = np.ascontiguousarray(frame.data[:, :count], np.float32)
            without_label += math.isnan(share)
            windows.append(LabelledWindow(samples, share, (frame.position_ns or 0) / 1e9))
    sound = [one for one in windows if not math.isnan(one.anomalous_share)]
    return Series(sound, table.broken, cutter.left_out + without_label)


def _readings(table: Table) -> Iterator[Frame]:
    """All of a recording. Raises SourceError."""
    table.open()
    try:
        while (reading := table.read()) is not None:
            yield reading
    finally:
        table.close()


class Course(NamedTuple):
    """A recording, not yet cut."""

    samples: Samples
    """N x channels, at the model's rate, in the sensors' own units; NaN where a value is missing."""
    is_after_gap: NDArray[np.bool_]
    """N: this sample does not go on from the one before."""
    begins: list[int]
    """Where windows are begun anew: at the first sample, and at a rate behind a pause that is too long to fill."""
    end_s: float
    """Where its last sample lies in the recording."""
    broken_rows: int


def read_course(source: CsvSource, window: Window) -> Course:
    """The samples that the agent cuts its windows of, one after the other.

    Args:
        source: the file and how it is read; its `channels` are chosen here.
        window: as the model takes them.

    Raises:
        SourceError: the file can't be used, or lacks one of the channels.
    """
    table = Table(msgspec.structs.replace(source, channels=window.channels, realtime=False, loop=False))
    single, cutter = msgspec.structs.replace(window, samples=1, stride=1, keeps_missing=True), Windows()
    samples, at_ns = bytearray(), array("q")  # not frames: a recording of days has millions
    for reading in _readings(table):
        for frame in cutter.cut(reading, single):
            samples += frame.data.tobytes()
            at_ns.append(frame.position_ns or 0)
    at_s = np.array(at_ns, np.float64) / 1e9
    is_after_gap = _is_after_gap(at_s, window)
    return Course(
        np.frombuffer(samples, np.float32).reshape(-1, len(window.channels)),
        is_after_gap,
        [0, *(np.flatnonzero(is_after_gap).tolist() if window.rate_hz else [])],
        float(at_s.max(initial=0.0)),
        table.broken,
    )


def _is_after_gap(at_s: NDArray[np.float64], window: Window) -> NDArray[np.bool_]:
    """Which samples come after a pause of more than `max_gap_s`. Of slow readings, such a pause is the usual one.

    Samples at a rate are made of readings, and come up to two periods after each other; a pause is filled, but for one
    so long that the grid begins anew. Without a rate each reading is a sample, and nothing is filled.
    """
    pauses_s = np.diff(at_s, prepend=at_s[:1])
    if window.rate_hz:
        return np.asarray(pauses_s > 2.5 / window.rate_hz)
    return np.asarray(pauses_s > max(window.max_gap_s, 1.5 * float(np.median(pauses_s[len(pauses_s) > 1 :]))))
