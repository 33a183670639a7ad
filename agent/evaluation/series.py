"""Labelled series as the agent would see them: its own CSV reader and its own windows, with the label cut along.

The label is one more channel. So it goes through the same averaging as the values, and what it says of a window is said
of the very samples that the model gets.
"""

import math
from typing import NamedTuple

import msgspec
import numpy as np

from agent.capture.table import Table
from agent.capture.windows import Windows
from agent.config import CsvSource
from agent.values import Samples, Window


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
    table.open()
    try:
        while (reading := table.read()) is not None:
            labels = reading.data[:, count:]
            np.sign(np.abs(labels), out=labels)
            for frame in cutter.cut(reading, wanted):
                share = float(frame.data[:, count:].mean()) if label_column else 0.0
                samples = np.ascontiguousarray(frame.data[:, :count], np.float32)
                without_label += math.isnan(share)
                windows.append(LabelledWindow(samples, share, (frame.position_ns or 0) / 1e9))
    finally:
        table.close()
    sound = [one for one in windows if not math.isnan(one.anomalous_share)]
    return Series(sound, table.broken, cutter.left_out + without_label)
