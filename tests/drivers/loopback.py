"""The camera side of the driver `v4l2loopback`: what is written here comes out of a V4L2 device byte by byte."""

import fcntl
import itertools
import os
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self

_VIDIOC_S_FMT = 0xC0D05605
_VIDEO_OUTPUT = 2
_FIELD_NONE = 1


class MjpegCamera:
    """Sends JPEGs over and over, as they are, while it is entered.

    Args:
        device: of the driver, where nobody else writes.
        jpegs: none over two bytes a pixel.
        fps: how many a second.
    """

    def __init__(self, device: Path, width_px: int, height_px: int, jpegs: Sequence[bytes], fps: float) -> None:
        self._device, self._size, self._jpegs = device, (width_px, height_px), jpegs
        self._period_s = 1.0 / fps
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Self:
        self._file = os.open(self._device, os.O_RDWR)
        width_px, height_px = self._size
        layout = struct.Struct("<I4x II4sIII 180x")  # struct v4l2_format with a v4l2_pix_format in it
        max_bytes = 2 * width_px * height_px
        form = layout.pack(_VIDEO_OUTPUT, width_px, height_px, b"MJPG", _FIELD_NONE, 0, max_bytes)
        fcntl.ioctl(self._file, _VIDIOC_S_FMT, form)
        os.write(self._file, self._jpegs[0])  # only from here on is it a camera
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10.0)
        os.close(self._file)

    def _send(self) -> None:
        for jpeg in itertools.cycle(self._jpegs):
            os.write(self._file, jpeg)
            if self._stop.wait(self._period_s):
                return
