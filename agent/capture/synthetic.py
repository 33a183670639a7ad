"""Computed frames with known content: a bright square that wanders over a dark, moving background."""

import threading

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from agent.capture.frames import Pacer, make_frame
from agent.config import SyntheticSource
from agent.errors import SourceError
from agent.values import Frame, Image

SQUARE = 255
"""Brightness of the square, in all three channels."""
BACKGROUND_MAX = 127
"""Nothing of the background is brighter."""

_STEP_PX = 4


def square_xyxy(index: int, width_px: int, height_px: int) -> tuple[int, int, int, int]:
    """Where the square is in frame `index`: it bounces between the edges, a quarter of the shorter side in size."""
    side_px = max(1, min(width_px, height_px) // 4)
    left = _bounce(index * _STEP_PX, width_px - side_px)
    top = _bounce(index * _STEP_PX // 2, height_px - side_px)
    return left, top, left + side_px, top + side_px


def picture(index: int, width_px: int, height_px: int) -> Image:
    """Frame `index`: H x W x 3, BGR, uint8. The same index gives the same picture."""
    ramp = np.arange(3 * (width_px + height_px), dtype=np.int64) // 3 + index * _STEP_PX
    shade = np.minimum(ramp % 256, 255 - ramp % 256).astype(np.uint8)  # a diagonal wave from 0 to 127 and back
    rows = sliding_window_view(shade, 3 * width_px)[: 3 * height_px : 3].copy()
    image = rows.reshape(height_px, width_px, 3)
    left, top, right, bottom = square_xyxy(index, width_px, height_px)
    image[top:bottom, left:right] = SQUARE
    return image


def _bounce(distance: int, span: int) -> int:
    """Where something is that runs from 0 to span and back, after this distance."""
    if span <= 0:
        return 0
    around = distance % (2 * span)
    return around if around <= span else 2 * span - around


class Synthetic:
    """The source of these pictures, at the configured rate; it ends after `frames` of them."""

    def __init__(self, spec: SyntheticSource) -> None:
        self.name = f"synthetic {spec.width}x{spec.height}"
        self.broken = 0
        self._spec = spec
        self._closed = threading.Event()
        self._pacer = Pacer(self._closed)
        self._index = 0
        self._made = 0

    def open(self, first_index: int = 0) -> None:
        self._index = first_index

    def read(self) -> Frame | None:
        if self._made == self._spec.frames:
            return None
        if not self._pacer.wait(self._made / self._spec.fps):
            raise SourceError(f"{self.name}: closed")
        frame = make_frame(picture(self._index, self._spec.width, self._spec.height), self._index)
        self._index += 1
        self._made += 1
        return frame

    def interrupt(self) -> None:
        self._closed.set()

    def close(self) -> None:
        self._closed.set()
