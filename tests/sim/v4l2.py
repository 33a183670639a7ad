"""The kernel's answers about video devices, in the layout of linux/videodev2.h: written down here a second time."""

import ctypes
import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TypeVar

CAPTURE, META_CAPTURE, M2M, IO_MC, DEVICE_CAPS, CAPTURE_MPLANE = 0x1, 0x800000, 0x8000, 0x20000000, 0x80000000, 0x1000

T = TypeVar("T")
Sizes = Mapping[tuple[int, int], Sequence[tuple[int, int]]]
"""By width and height: intervals between frames, as fractions of a second."""


class Capability(ctypes.Structure):
    _fields_: ClassVar = [
        ("driver", ctypes.c_char * 16),
        ("card", ctypes.c_char * 32),
        ("bus_info", ctypes.c_char * 32),
        ("version", ctypes.c_uint32),
        ("capabilities", ctypes.c_uint32),
        ("device_caps", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    ]


class FormatDescription(ctypes.Structure):
    _fields_: ClassVar = [
        ("index", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("description", ctypes.c_char * 32),
        ("pixelformat", ctypes.c_uint32),
        ("mbus_code", ctypes.c_uint32),
        ("reserved", ctypes.c_uint32 * 3),
    ]


class FrameSize(ctypes.Structure):
    _fields_: ClassVar = [
        ("index", ctypes.c_uint32),
        ("pixel_format", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("numbers", ctypes.c_uint32 * 6),
        ("reserved", ctypes.c_uint32 * 2),
    ]


class FrameInterval(ctypes.Structure):
    _fields_: ClassVar = [
        ("index", ctypes.c_uint32),
        ("pixel_format", ctypes.c_uint32),
        ("width", ctypes.c_uint32),
        ("height", ctypes.c_uint32),
        ("type", ctypes.c_uint32),
        ("numbers", ctypes.c_uint32 * 6),
        ("reserved", ctypes.c_uint32 * 2),
    ]


def _request(direction: int, number: int, kind: type[ctypes.Structure]) -> int:
    """The macro _IOC of linux/ioctl.h."""
    return direction << 30 | ctypes.sizeof(kind) << 16 | ord("V") << 8 | number


class VideoDevice:
    """One node: what it can do, and its formats with their sizes."""

    def __init__(
        self,
        driver: str,
        formats: Mapping[str, Sizes] | None = None,
        *,
        can: int = CAPTURE,
        size_range: tuple[int, ...] = (),
        interval_range: tuple[int, ...] = (),
    ) -> None:
        """Args: `size_range`, `interval_range`: up to six numbers each, given instead of single ones."""
        self.driver, self.formats, self.can = driver, formats or {}, can
        self.size_range, self.interval_range = size_range, interval_range
        self.asked = 0

    def answer(self, number: int, buffer: bytearray) -> None:
        self.asked += 1
        if number == _request(2, 0, Capability):
            capability = Capability.from_buffer(buffer)
            capability.driver, capability.card = self.driver.encode(), b"a card"
            capability.capabilities = 0x84A00001  # of all nodes of the device together, as uvcvideo says it
            capability.device_caps = self.can
        elif number == _request(3, 2, FormatDescription):
            description = FormatDescription.from_buffer(buffer)
            if description.type != (1 if self.can & CAPTURE else 9):
                raise OSError(errno.EINVAL, "Invalid argument")
            code = self._at(list(self.formats), description.index)
            description.pixelformat = int.from_bytes(code.encode(), "little")
        elif number == _request(3, 74, FrameSize):
            self._size(FrameSize.from_buffer(buffer))
        elif number == _request(3, 75, FrameInterval):
            self._interval(FrameInterval.from_buffer(buffer))
        else:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")

    def _size(self, asked: FrameSize) -> None:
        if self.size_range:
            asked.type, asked.numbers = 3, self.size_range
            return
        size = self._at(list(self.formats[_code(asked.pixel_format)]), asked.index)
        asked.type, asked.numbers[:2] = 1, list(size)

    def _interval(self, asked: FrameInterval) -> None:
        if self.interval_range:
            asked.type, asked.numbers = 3, self.interval_range
            return
        intervals = self.formats[_code(asked.pixel_format)][asked.width, asked.height]
        asked.type, asked.numbers[:2] = 1, list(self._at(intervals, asked.index))

    @staticmethod
    def _at(values: Sequence[T], index: int) -> T:
        if index >= len(values):
            raise OSError(errno.EINVAL, "Invalid argument")
        return values[index]


class EndlessDevice(VideoDevice):
    """A driver that never says that there are no more."""

    def __init__(self) -> None:
        super().__init__("endless")

    def answer(self, number: int, buffer: bytearray) -> None:
        if number == _request(2, 0, Capability):
            super().answer(number, buffer)
            return
        self.asked += 1
        if number == _request(3, 75, FrameInterval):
            FrameInterval.from_buffer(buffer).type = 1
            return
        if number == _request(3, 74, FrameSize):
            FrameSize.from_buffer(buffer).type = 1


class Kernel:
    """Answers ioctls on open files by their paths."""

    def __init__(self, devices: Mapping[Path, VideoDevice]) -> None:
        self._devices = {os.path.realpath(path): device for path, device in devices.items()}

    def ioctl(self, fd: int, number: int, buffer: bytearray) -> int:
        device = self._devices.get(str(Path(f"/proc/self/fd/{fd}").readlink()))
        if device is None:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        device.answer(number, buffer)
        return 0


def _code(fourcc: int) -> str:
    return fourcc.to_bytes(4, "little").decode()
