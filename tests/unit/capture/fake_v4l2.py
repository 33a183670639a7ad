"""A camera that behaves as OpenCV's V4L2 captures were seen to behave on real drivers."""

import time

import cv2
import numpy as np


class FakeCapture:
    """Stands for `cv2.VideoCapture(path, cv2.CAP_V4L2)`.

    `shots` is what it captures, one after the other: a picture (sent as JPEG when the format is MJPG); a JPEG as it
    came over the cable; None for a frame that can't be decoded. After the last it is unplugged: `grab` says no at once
    and for ever, while `isOpened` goes on saying yes. `set` always says yes, and does it for CONVERT_RGB alone.
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
            cv2.CAP_PROP_CONVERT_RGB: 1.0,
        }
        self._sends_jpeg = code == "MJPG"
        self.asked = []
        self.released = 0

    def isOpened(self):  # noqa: N802 - OpenCV's name
        return self._opened

    def set(self, prop, value):
        self.asked.append((prop, value))
        if prop == cv2.CAP_PROP_CONVERT_RGB:
            self._given[prop] = float(value)
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
        if self._shot is None or not self._sends_jpeg:
            return self._shot is not None, self._shot
        jpeg = self._shot if isinstance(self._shot, bytes) else to_jpeg(self._shot)
        if self._given[cv2.CAP_PROP_CONVERT_RGB]:
            image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
            return image is not None, image
        return True, np.frombuffer(jpeg, np.uint8).reshape(1, -1).copy()

    def release(self):
        self.released += 1
        self._opened = False


def color(value=100, width=640, height=480):
    return np.full((height, width, 3), value, np.uint8)


def to_jpeg(image):
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
