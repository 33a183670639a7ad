"""V4L2 cameras, through OpenCV."""

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import structlog

from agent.capture.frames import first_frame_s, is_sound, make_frame
from agent.capture.jpeg import decode_jpeg
from agent.config import CameraSource
from agent.errors import SourceError
from agent.values import Frame, Image

_MAX_AGE_NS = 60_000_000_000
_FPS_TOLERANCE = 0.5
_JPEG_FORMATS = frozenset({"MJPG", "JPEG"})

log = structlog.get_logger()


class Capture(Protocol):
    """The part of `cv2.VideoCapture` that is used."""

    def isOpened(self) -> bool: ...  # noqa: N802 - OpenCV's name
    def get(self, prop: int, /) -> float: ...
    def set(self, prop: int, value: float, /) -> bool: ...
    def grab(self) -> bool: ...
    def retrieve(self) -> tuple[bool, Any]: ...
    def release(self) -> None: ...


def open_v4l2(path: str) -> Capture:
    """OpenCV's capture of a device file."""
    return cv2.VideoCapture(path, cv2.CAP_V4L2)


class Camera:
    """One opening of a camera. `captured_ns` is the driver's time of the frame."""

    def __init__(self, spec: CameraSource, open_capture: Callable[[str], Capture] = open_v4l2) -> None:
        self.name = f"camera {device_path(spec)}"
        self.broken = 0
        self._spec = spec
        self._open_capture = open_capture
        self._capture: Capture | None = None
        self._index = 0
        self._first = True
        self._is_jpeg = False
        self._interrupted = False

    def open(self, first_index: int = 0) -> None:
        self._index = first_index
        path = os.path.realpath(device_path(self._spec))  # OpenCV wants /dev/videoN, not a link to it
        self._check_device(path)
        self._capture = self._open_capture(path)
        if not self._capture.isOpened():
            self.close()
            raise SourceError(
                f"{self.name}: can't be opened; another program uses it (`fuser {path}`), or it gives no pictures"
                " (`v4l2-ctl --list-devices` shows all devices of each camera)"
            )
        self._configure(self._capture)

    def read(self) -> Frame | None:
        limit_s = first_frame_s(self._spec.read_timeout_s) if self._first else self._spec.read_timeout_s
        began_s = time.monotonic()
        while True:
            if self._capture is None or self._interrupted:
                raise SourceError(f"{self.name}: closed")
            if not self._capture.grab():  # unplugged: at once, while isOpened() stays true; silent: after the timeout
                silent_s = time.monotonic() - began_s
                problem = f"no frame for {silent_s:.1f} s" if silent_s >= 1.0 else "unplugged"
                raise SourceError(f"{self.name}: {problem}")
            data = self._to_picture(self._capture.retrieve()[1])
            if data is not None:
                return self._frame(data, self._capture.get(cv2.CAP_PROP_POS_MSEC))
            self.broken += 1
            if time.monotonic() - began_s > limit_s:
                raise SourceError(
                    f"{self.name}: only broken frames for {limit_s:.1f} s; try another cable or port, or format: YUYV"
                )

    def interrupt(self) -> None:
        self._interrupted = True  # seen when the driver comes back, which its own timeout takes care of

    def close(self) -> None:
        """Let go of the device: while the dead handle is open, a camera comes back as another /dev/videoN."""
        self._interrupted = True
        capture, self._capture = self._capture, None
        if capture is not None:
            capture.release()

    def _check_device(self, path: str) -> None:
        """Say what OpenCV keeps to itself: no such device, or no permission."""
        if not Path(path).exists():
            moved = (
                "; a path below /dev/v4l/by-id finds it under any number" if isinstance(self._spec.device, int) else ""
            )
            raise SourceError(f"{self.name}: no such device; `v4l2-ctl --list-devices` shows what is plugged in{moved}")
        if not os.access(path, os.R_OK | os.W_OK):
            raise SourceError(f"{self.name}: no permission; add the user that runs the agent to the group video")

    def _configure(self, capture: Capture) -> None:
        """Ask for format, size and rate; then read back, since `set` says yes to anything."""
        spec = self._spec
        capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*spec.format))
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, spec.width)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, spec.height)
        capture.set(cv2.CAP_PROP_FPS, spec.fps)
        width, height, fps = (
            capture.get(prop) for prop in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FPS)
        )
        given_format = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True).decode("latin-1")
        asked = f"{spec.format} {spec.width}x{spec.height}"
        given = f"{given_format} {width:.0f}x{height:.0f}"
        if given != asked or abs(fps - spec.fps) > _FPS_TOLERANCE:
            _report_difference(self.name, f"{asked} at {spec.fps:g} fps", f"{given} at {fps:g} fps")
        if given_format in _JPEG_FORMATS:  # OpenCV takes half a JPEG for a picture, so that is not left to it
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
            self._is_jpeg = capture.get(cv2.CAP_PROP_CONVERT_RGB) == 0

    def _to_picture(self, raw: Any) -> Image | None:
        """What OpenCV retrieved as a picture; None when it is damaged."""
        if self._is_jpeg and isinstance(raw, np.ndarray):
            return decode_jpeg(raw.data)
        return to_image(raw)

    def _frame(self, data: Image, driver_ms: float) -> Frame:
        """Stamp it with the driver's time, CLOCK_MONOTONIC in ms, if that can be; else with now."""
        now_ns = time.monotonic_ns()
        driver_ns = int(driver_ms * 1e6)
        captured_ns = driver_ns if 0 < driver_ns <= now_ns <= driver_ns + _MAX_AGE_NS else now_ns
        frame = make_frame(data, self._index, captured_ns)
        self._index += 1
        self._first = False
        return frame


def device_path(spec: CameraSource) -> str:
    """The device file as configured."""
    return f"/dev/video{spec.device}" if isinstance(spec.device, int) else spec.device


def to_image(raw: Any) -> Image | None:
    """What OpenCV retrieved as H x W x 3 BGR or H x W gray, uint8, contiguous, our own; None when it is damaged.

    OpenCV leaves formats that it does not convert as they are: two channels are YUYV, four are BGRA.
    """
    if not isinstance(raw, np.ndarray) or raw.dtype != np.uint8 or raw.size == 0:
        return None
    channels = raw.shape[2] if raw.ndim == 3 else 1
    if channels == 1:
        raw = raw.reshape(raw.shape[:2])
    elif channels == 2:
        raw = cv2.cvtColor(raw, cv2.COLOR_YUV2BGR_YUYV)
    elif channels == 4:
        raw = cv2.cvtColor(raw, cv2.COLOR_BGRA2BGR)
    image: Image = raw if raw.flags.owndata and raw.flags.c_contiguous else raw.copy()
    return image if is_sound(image) else None


@functools.lru_cache(maxsize=64)
def _report_difference(source: str, asked: str, given: str) -> None:
    """Log it once, not at every opening: the cache swallows what was said before."""
    log.warning("capture.settings_differed", source=source, asked=asked, given=given)
