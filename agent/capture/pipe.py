"""Programs that write pictures to their standard output: whatever has a command line can be a camera."""

import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from agent.capture.child import Child
from agent.capture.frames import first_frame_s, make_frame
from agent.capture.jpeg import decode_jpeg
from agent.capture.split import JpegSplitter, RawSplitter, Splitter
from agent.config import ExecSource
from agent.errors import SourceError
from agent.values import Frame, Image

_PIPE_BYTES = 1 << 20
"""What the program may write ahead, and what one read takes: all that has come while the last picture was decoded."""


class Pipe:
    """One run of a program. `captured_ns` is when the end of a picture arrived.

    When pictures come faster than they can be decoded, the newest wins: of what one read brings, the others are left
    out, as a camera's driver does it with buffers that nobody fetches.
    """

    def __init__(self, spec: ExecSource, name: str | None = None) -> None:
        """`name`: how messages call it. Default: after the program; its arguments may be nobody's business."""
        self.name = name or f"exec {Path(spec.command[0]).name}"
        self.broken = 0
        self._spec = spec
        self._child = Child(spec.command, self.name, _PIPE_BYTES)
        self._splitter, self._decode = make_format(spec)
        self._undecodable = 0
        self._index = 0
        self._first = True

    def open(self, first_index: int = 0) -> None:
        self._index = first_index
        self._child.open()

    def read(self) -> Frame | None:
        limit_s = first_frame_s(self._spec.read_timeout_s) if self._first else self._spec.read_timeout_s
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            data = self._child.read(_PIPE_BYTES, limit_s)
            arrived_ns = time.monotonic_ns()
            image = self._newest(data)
            if image is not None:
                return self._frame(image, arrived_ns)
        raise SourceError(
            f"{self.name}: no whole picture for {limit_s:.1f} s, though data came; does it write {self._spec.output}"
            " to standard output?"
        )

    def interrupt(self) -> None:
        self._child.interrupt()

    def close(self) -> None:
        self._child.close()

    def _newest(self, data: bytes) -> Image | None:
        """The last sound picture that these bytes complete."""
        image = None
        try:
            pictures = self._splitter.feed(data)
        except ValueError as exc:
            raise SourceError(f"{self.name}: {exc}; expected {self._spec.output} on standard output") from exc
        for picture in reversed(pictures):
            image = self._decode(picture)
            if image is not None:
                break
            self._undecodable += 1
        self.broken = self._undecodable + self._splitter.broken
        return image

    def _frame(self, image: Image, arrived_ns: int) -> Frame:
        frame = make_frame(image, self._index, arrived_ns)
        self._index += 1
        self._first = False
        return frame


def make_format(spec: ExecSource) -> tuple[Splitter, Callable[[bytearray], Image | None]]:
    """How to find pictures in what the program writes, and how to decode one; None when it is damaged."""
    width, height = spec.width or 0, spec.height or 0  # there, for raw ones: the configuration sees to it
    if spec.output == "mjpeg":
        return JpegSplitter(), decode_jpeg
    if spec.output == "i420":
        return RawSplitter(width * height * 3 // 2), lambda data: _from_i420(data, width, height)
    shape = (height, width) if spec.output == "gray8" else (height, width, 3)
    return RawSplitter(int(np.prod(shape))), lambda data: np.frombuffer(data, np.uint8).reshape(shape)


def _from_i420(data: bytearray, width: int, height: int) -> Image:
    planes = np.frombuffer(data, np.uint8).reshape(height * 3 // 2, width)
    return np.asarray(cv2.cvtColor(planes, cv2.COLOR_YUV2BGR_I420), np.uint8)
