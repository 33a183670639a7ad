"""What all sources share: which pictures are sound, stamping, pacing, and how long the first frame may take."""

import threading
import time
from typing import NamedTuple

import numpy as np

from agent.values import Frame, Image

MAX_SIDE_PX = 8192
"""Wider or higher pictures are damage or a mistake; the configuration's limit is the same."""

_MAX_LATE_S = 1.0


class Shot(NamedTuple):
    """One picture of a recording: where it lies in it, and how long it stands."""

    image: Image
    position_ns: int
    duration_ns: int


def first_frame_s(timeout_s: float) -> float:
    """How long opening and the first frame may take: a camera starts slowly, a stream waits for a key frame."""
    return max(10.0, 2.0 * timeout_s)


def fits(width_px: int, height_px: int) -> bool:
    """Whether a picture of this size can be a frame."""
    return 0 < width_px <= MAX_SIDE_PX and 0 < height_px <= MAX_SIDE_PX


def is_sound(data: Image | None) -> bool:
    """Whether this is a whole picture: uint8, H x W x 3 or H x W, within bounds."""
    return (
        data is not None
        and data.dtype == np.uint8
        and (data.ndim == 2 or (data.ndim == 3 and data.shape[2] == 3))
        and fits(data.shape[1], data.shape[0])
    )


def make_frame(data: Image, index: int, captured_ns: int | None = None, position_ns: int | None = None) -> Frame:
    """Stamp a picture. `captured_ns` is on the monotonic clock; None: now."""
    now_ns = time.monotonic_ns()
    captured_ns = now_ns if captured_ns is None else captured_ns
    return Frame(data, index, captured_ns, time.time_ns() - (now_ns - captured_ns), position_ns)


class Pacer:
    """Holds frames back until they are due. Setting `stop` ends a wait."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._origin_s: float | None = None

    def wait(self, position_s: float) -> bool:
        """Wait until this long after the first position; False as soon as `stop` is set.

        Who comes over a second late goes on from there at the normal pace, rather than making up for it in a burst.
        """
        now_s = time.monotonic()
        if self._origin_s is None:
            self._origin_s = now_s - position_s
        late_s = now_s - (self._origin_s + position_s)
        if late_s > _MAX_LATE_S:
            self._origin_s += late_s
        return not self._stop.wait(max(0.0, -late_s))
