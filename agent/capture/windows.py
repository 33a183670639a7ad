"""Samples, as a source gives them, into the windows that a model takes.

    readings as they come  -> averaged to the model's rate, gaps held -> window
    sound at another rate  -> resampled                               -> window

The model's manifest says how long a window is and how far the next one is from it (`agent.values.Window`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.capture.resample import Resampler
from agent.errors import SourceError
from agent.values import Frame, Samples, Window

_MAX_BINS = 100_000
"""A pause of more samples than this begins anew: nobody waits for windows of nothing."""


class Windows:
    """Cuts the frames of one source into windows. For one thread."""

    def __init__(self) -> None:
        self._window: Window | None = None
        self._grid: _Grid | None = None
        self._resample: Resampler | None = None
        self._rows: Samples = np.empty((0, 0), np.float32)
        self._filled = 0
        self._until_next = 0
        self._index = 0
        self.left_out = 0
        """Windows with values that are missing."""

    def cut(self, frame: Frame, window: Window) -> Iterator[Frame]:
        """Take samples in, and give the windows that are complete with them.

        Raises:
            SourceError: the source lacks a channel that the model takes.
        """
        is_far = self._grid is not None and self._grid.is_far(_time_ns(frame))
        if frame.is_first or window != self._window or is_far:
            self._begin(frame, window)
        columns = _columns(frame.channels, window.channels)
        rows = frame.data[:, columns].astype(np.float32, copy=False)
        if self._grid is not None:
            rows = self._grid.take(rows, _time_ns(frame))
        elif self._resample is not None:
            rows = self._resample(rows)
        yield from self._append(rows, frame, window)

    def _begin(self, frame: Frame, window: Window) -> None:
        self._window, self._grid, self._resample = None, None, None
        if window.rate_hz is not None and frame.rate_hz is None:
            self._grid = _Grid(window.rate_hz, window.max_gap_s)
        elif window.rate_hz is not None and frame.rate_hz != window.rate_hz:
            self._resample = Resampler(round(frame.rate_hz or 0), round(window.rate_hz))
        self._rows = np.empty((window.samples, max(1, len(window.channels))), np.float32)
        self._filled, self._until_next = 0, window.samples
        self._window = window  # last: after rates with too little in common, the next frame begins anew

    def _append(self, rows: Samples, frame: Frame, window: Window) -> Iterator[Frame]:
        """Lay rows behind those that are there; the oldest make room."""
        at = 0
        while at < len(rows):
            count = min(self._until_next, len(rows) - at)
            part = rows[at : at + count][-window.samples :]
            keep = min(self._filled, window.samples - len(part))
            self._rows[:keep] = self._rows[self._filled - keep : self._filled].copy()
            self._rows[keep : keep + len(part)] = part
            self._filled, self._until_next, at = keep + len(part), self._until_next - count, at + count
            if self._until_next == 0:
                self._until_next = window.stride
                late_s = (len(rows) - at) / window.rate_hz if window.rate_hz else 0.0
                yield from self._emit(frame, window, round(late_s * 1e9))

    def _emit(self, frame: Frame, window: Window, late_ns: int) -> Iterator[Frame]:
        """The rows as a frame; its last sample is so much older than the last that came."""
        if not window.keeps_missing and np.isnan(self._rows).any():
            self.left_out += 1
            return
        position_ns = None if frame.position_ns is None else max(0, frame.position_ns - late_ns)
        yield replace(
            frame,
            data=self._rows.copy(),
            index=self._index,
            captured_ns=frame.captured_ns - late_ns,
            captured_at_ns=frame.captured_at_ns - late_ns,
            position_ns=position_ns,
            channels=window.channels or frame.channels[:1],
            rate_hz=window.rate_hz,
            is_first=False,
        )
        self._index += 1


class _Grid:
    """Readings that come whenever they come, averaged to one a period.

    A period without one holds the last value for `max_gap_s`; then it is missing. A period is over when a reading of a
    later one comes.
    """

    def __init__(self, rate_hz: float, max_gap_s: float) -> None:
        self._period_ns, self._max_gap_ns = 1e9 / rate_hz, max_gap_s * 1e9
        self._origin_ns: int | None = None
        self._bin = 0
        self._sums: NDArray[np.float64] = np.empty(0)
        self._counts: NDArray[np.int64] = np.empty(0, np.int64)
        self._last: NDArray[np.float64] = np.empty(0)
        self._last_ns: NDArray[np.float64] = np.empty(0)

    def is_far(self, at_ns: int) -> bool:
        """Whether so many periods lie between that nobody would wait for them to be closed."""
        return self._origin_ns is not None and self._place(at_ns) - self._bin > _MAX_BINS

    def take(self, rows: Samples, at_ns: int) -> Samples:
        """Take readings of one moment in; gives the periods that are over with them, oldest first."""
        done: list[NDArray[np.float64]] = []
        for row in rows:
            if self._origin_ns is None:
                self._begin(at_ns, len(row))
            place = self._place(at_ns)
            while self._bin < place:
                done.append(self._close())
            seen = ~np.isnan(row)
            self._sums[seen] += row[seen]
            self._counts[seen] += 1
            self._last[seen], self._last_ns[seen] = row[seen], at_ns
        return np.array(done, np.float32).reshape(len(done), rows.shape[1])

    def _place(self, at_ns: int) -> int:
        return int((at_ns - (self._origin_ns or 0)) / self._period_ns + 0.5)

    def _begin(self, at_ns: int, channels: int) -> None:
        self._origin_ns = at_ns
        self._sums, self._counts = np.zeros(channels), np.zeros(channels, np.int64)
        self._last, self._last_ns = np.full(channels, np.nan), np.full(channels, -np.inf)

    def _close(self) -> NDArray[np.float64]:
        """Mean of the readings in this period, or the last value while it may still be held."""
        middle_ns = (self._origin_ns or 0) + self._bin * self._period_ns
        held = np.where(middle_ns - self._last_ns <= self._max_gap_ns, self._last, np.nan)
        with np.errstate(invalid="ignore"):
            row = np.where(self._counts > 0, self._sums / np.maximum(self._counts, 1), held)
        self._sums[:], self._counts[:] = 0.0, 0
        self._bin += 1
        return row


def _columns(given: Sequence[str], wanted: Sequence[str]) -> list[int]:
    if not wanted:
        return [0]
    missing = [name for name in wanted if name not in given]
    if missing:
        raise SourceError(f"the model takes {', '.join(wanted)}; the source has no {missing[0]}: {', '.join(given)}")
    return [list(given).index(name) for name in wanted]


def _time_ns(frame: Frame) -> int:
    """Of a recording, where it stands in it: the same each time."""
    return frame.captured_ns if frame.position_ns is None else frame.position_ns
