"""What a V4L2 device says of itself: four ioctls of linux/videodev2.h, which change nothing and disturb nobody."""

import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FORMATS = 32
MAX_SIZES = 64
MAX_RATES = 16
"""More that a driver offers are not asked for: one that never says `no more` ends here."""

QUERYCAP = 0x80685600
ENUM_FMT = 0xC0405602
ENUM_FRAMESIZES = 0xC02C564A
ENUM_FRAMEINTERVALS = 0xC034564B

_CAPABILITY = struct.Struct("=16s32s32sIII12x")  # driver, card, bus, version, capabilities, those of this node
_FORMAT = struct.Struct("=III32sI16x")  # index, type of buffer, flags, description, FOURCC
_SIZE = struct.Struct("=III6I8x")  # index, FOURCC, kind; width, height, or from, to, step of width and of height
_RATE = struct.Struct("=IIIII6I8x")  # index, FOURCC, width, height, kind; fraction of a second, or from, to, step

_HAS_CAPTURE, _HAS_CAPTURE_MPLANE = 0x1, 0x1000
_HAS_M2M = 0x4000 | 0x8000  # converters, such as JPEG decoders: they capture what they are fed
_NEEDS_MEDIA_CONTROLLER = 0x20000000  # raw ends of a CSI camera, which give nothing until libcamera has set them up
_HAS_NODE_CAPABILITIES = 0x80000000
_BUFFER_CAPTURE, _BUFFER_CAPTURE_MPLANE = 1, 9
_DISCRETE = 1

Ioctl = Callable[[int, int, bytearray], int]


@dataclass(frozen=True, slots=True)
class Mode:
    """One way in which a camera gives pictures."""

    format: str
    """FOURCC, such as MJPG."""
    width_px: int
    height_px: int
    fps: float
    """The highest rate in this size; 0 when the driver tells none."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a node says of itself."""

    driver: str
    card: str
    is_camera: bool
    """Whether it gives pictures to whoever opens it."""
    modes: tuple[Mode, ...]


def describe(path: Path, ioctl: Ioctl = fcntl.ioctl) -> Description:
    """Ask a device file. May hang in a driver that does.

    Raises:
        OSError: it can't be opened, or is none of V4L2.
    """
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        raw = bytearray(_CAPABILITY.size)
        ioctl(fd, QUERYCAP, raw)
        driver, card, _, _, of_device, of_node = _CAPABILITY.unpack(raw)
        able = of_node if of_device & _HAS_NODE_CAPABILITIES else of_device
        is_camera = bool(able & (_HAS_CAPTURE | _HAS_CAPTURE_MPLANE)) and not able & (
            _HAS_M2M | _NEEDS_MEDIA_CONTROLLER
        )
        buffer = _BUFFER_CAPTURE if able & _HAS_CAPTURE else _BUFFER_CAPTURE_MPLANE
        modes = tuple(_modes(fd, ioctl, buffer)) if is_camera else ()
        return Description(_text(driver), _text(card), is_camera, modes)
    finally:
        os.close(fd)


def _modes(fd: int, ioctl: Ioctl, buffer: int) -> Iterator[Mode]:
    for fourcc in _formats(fd, ioctl, buffer):
        name = fourcc.to_bytes(4, "little").decode("latin-1")
        for width_px, height_px in _sizes(fd, ioctl, fourcc):
            rates = _rates(fd, ioctl, fourcc, width_px, height_px)
            yield Mode(name, width_px, height_px, max(rates, default=0.0))


def _formats(fd: int, ioctl: Ioctl, buffer: int) -> list[int]:
    request = (_FORMAT.pack(i, buffer, 0, b"", 0) for i in range(MAX_FORMATS))
    return [_FORMAT.unpack(answer)[4] for answer in _ask(fd, ioctl, ENUM_FMT, request)]


def _sizes(fd: int, ioctl: Ioctl, fourcc: int) -> list[tuple[int, int]]:
    """Each size; of a range of sizes, usual ones within it and its ends."""
    sizes: list[tuple[int, int]] = []
    request = (_SIZE.pack(i, fourcc, 0, *[0] * 6) for i in range(MAX_SIZES))
    for answer in _ask(fd, ioctl, ENUM_FRAMESIZES, request):
        _, _, kind, *numbers = _SIZE.unpack(answer)
        if kind == _DISCRETE:
            sizes.append((numbers[0], numbers[1]))
        else:
            return _in_range(*numbers)
    return sizes


def _in_range(least_w: int, most_w: int, step_w: int, least_h: int, most_h: int, step_h: int) -> list[tuple[int, int]]:
    usual = [(320, 240), (640, 480), (1280, 720), (1920, 1080)]
    sizes = [(least_w, least_h), *usual, (most_w, most_h)]
    return [
        (width, height)
        for width, height in dict.fromkeys(sizes)
        if least_w <= width <= most_w
        and least_h <= height <= most_h
        and (width - least_w) % max(1, step_w) == 0
        and (height - least_h) % max(1, step_h) == 0
    ]


def _rates(fd: int, ioctl: Ioctl, fourcc: int, width_px: int, height_px: int) -> list[float]:
    """Frames a second. A range of intervals begins with the shortest, which is where a discrete one stands too."""
    rates = []
    request = (_RATE.pack(i, fourcc, width_px, height_px, 0, *[0] * 6) for i in range(MAX_RATES))
    for answer in _ask(fd, ioctl, ENUM_FRAMEINTERVALS, request):
        _, _, _, _, kind, numerator, denominator, *_ = _RATE.unpack(answer)
        if numerator and denominator:
            rates.append(denominator / numerator)
        if kind != _DISCRETE:
            break
    return rates


def _ask(fd: int, ioctl: Ioctl, number: int, requests: Iterator[bytes]) -> Iterator[bytes]:
    """The answers, until the driver says that there are no more."""
    for request in requests:
        answer = bytearray(request)
        try:
            ioctl(fd, number, answer)
        except OSError:
            return
        yield bytes(answer)


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", "replace")
