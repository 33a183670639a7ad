"""A camera that behaves as OpenCV's V4L2 captures were seen to behave on real drivers."""

import time

import cv2
import numpy as np


class FakeCapture:
    """Stands for `cv2.VideoCapture(path, cv2.CAP_V4L2)`.

    `shots` is what it captures, one after the other: a picture; None for a frame that can't be decoded. After the last
    it is unplugged: `grab` says no at once and for ever, while `isOpened` goes on saying yes. `set` always says yes.
    """

    def __init__(self, shots=(), *, opened=True, given=("MJPG", 640, 480, 15.0), age_ms=5.0):
        code, width, height, fps = given
        self._shots = iter(shots)
        self._shot = None
        self._opened = opened
        self._age_ms = age_ms
        self._given = {
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*code)),
            cv2.CAP_PROP_FRAME_WIDTH: float(width),
            cv2.CAP_PROP_FRAME_HEIGHT: float(height),
            cv2.CAP_PROP_FPS: fps,
        }
        self.asked = []
        self.released = 0

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self._opened

    def set(self, prop, value):
        self.asked.append((prop, value))
        return True

    def get(self, prop):
        if prop == cv2.CAP_PROP_POS_MSEC:
            return 0.0 if self._age_ms is None else time.monotonic() * 1000.0 - self._age_ms
        return self._given[prop]

    def grab(self):
        try:
            self._shot = next(self._shots)
        except StopIteration:
            return False
        return True

    def retrieve(self):
        return self._shot is not None, self._shot

    def release(self):
        self.released += 1
        self._opened = False


def color(value=100, width=640, height=480):
    return np.full((height, width, 3), value, np.uint8)
