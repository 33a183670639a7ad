"""JPEG pictures as cameras send them: whole, or not at all.

OpenCV decodes a JPEG of which a part was lost on the way (a full USB bus, a bad cable) without complaint: the rest of
the picture is shifted, gray or rubbish. So the structure is checked here first, and what OpenCV gets has no end marker:
when the coded pixels don't last, it can't make up the rest, and refuses.
"""

import re
import struct
from collections.abc import Iterator
from math import ceil
from typing import NamedTuple

import cv2
import numpy as np

from agent.capture.frames import fits, is_sound
from agent.values import Image

_EOI, _SOS, _DRI = 0xD9, 0xDA, 0xDD
_SOF = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # starts of a frame, of any coding; the three are tables
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_MARKER = re.compile(rb"\xff+([\xc0-\xcf\xd9-\xfe])")  # those that may stand outside of a scan, and the end
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)  # neither a stuffed FF nor a restart marker
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_RESTARTS_IN_TURN = bytes(range(0xD0, 0xD8))
_MAX_SEGMENTS = 1000
_LOOKAHEAD = bytes(8)  # libjpeg fills a register of 64 bits before it looks how many of them it needs


class _Segment(NamedTuple):
    """A marker with what belongs to it."""

    marker: int
    payload: bytes
    pixels: bytes
    """Behind SOS: the coded pixels. Else empty."""
    end: int
    """Where in the JPEG it ends."""


def decode_jpeg(data: bytes | bytearray | memoryview) -> Image | None:
    """The picture as H x W x 3, BGR, uint8; None when it is damaged. Bytes behind its end are left alone.

    Noticed for certain: no start, no end, a header in disorder, another picture's start among the coded pixels, and,
    in what cameras send (one scan with all colours), missing or misplaced restart markers. A loss of 200 bytes or more
    is noticed practically always in pictures without restart markers. Of what was replaced by as many wrong bytes,
    such as the lower half by that of the next picture, a part goes unnoticed.
    """
    try:
        checked = _check(bytes(data))
        image = cv2.imdecode(np.frombuffer(checked, np.uint8), cv2.IMREAD_COLOR)
    except (ValueError, LookupError, ArithmeticError, struct.error, cv2.error):
        return None
    return np.asarray(image, np.uint8) if is_sound(image) else None  # type: ignore[arg-type]


def _check(jpeg: bytes) -> bytes:
    """What to give to the decoder. Raises what unpacking and counting raise when the JPEG is damaged."""
    segments = list(_segments(jpeg))
    frames = [segment for segment in segments if segment.marker in _SOF]
    scans = [segment for segment in segments if segment.marker == _SOS]
    if len(frames) != 1 or not scans:
        raise ValueError("not one picture")
    frame = frames[0]
    height_px, width_px, components = struct.unpack_from(">HHB", frame.payload, 1)
    if not fits(width_px, height_px):
        raise ValueError("not the size of a picture")
    if len(scans) != 1 or frame.marker not in _SEQUENTIAL or scans[0].payload[0] != components:
        return jpeg[: segments[-1].end]  # of several scans the decoder wants to see the end
    interval = next((struct.unpack(">H", s.payload)[0] for s in reversed(segments) if s.marker == _DRI), 0)
    _check_restarts(scans[0].pixels, interval, _count_units(frame.payload, width_px, height_px))
    return jpeg[: scans[0].end].rstrip(b"\xff") + _LOOKAHEAD


def _segments(jpeg: bytes) -> Iterator[_Segment]:
    """All segments from behind the start marker to the end marker."""
    if jpeg[:2] != b"\xff\xd8":
        raise ValueError("no start")
    at = 2
    for _ in range(_MAX_SEGMENTS):
        found = _MARKER.match(jpeg, at)
        if found is None:
            raise ValueError("no marker where one belongs")
        marker, at = found[1][0], found.end()
        if marker == _EOI:
            yield _Segment(marker, b"", b"", at)
            return
        (length_bytes,) = struct.unpack_from(">H", jpeg, at)
        payload, at = jpeg[at + 2 : at + length_bytes], at + length_bytes
        start = at
        if marker == _SOS:
            ending = _END_OF_SCAN.search(jpeg, at)
            if ending is None:
                raise ValueError("no end")
            at = ending.start()
        yield _Segment(marker, payload, jpeg[start:at], at)
    raise ValueError("more segments than any picture has")


def _count_units(frame: bytes, width_px: int, height_px: int) -> int:
    """How many coded units (MCUs) a scan with all colours has."""
    factors = [(byte >> 4, byte & 15) for byte in frame[7::3]]
    across, down = (1, 1) if len(factors) == 1 else map(max, zip(*factors, strict=True))
    return ceil(width_px / (8 * across)) * ceil(height_px / (8 * down))


def _check_restarts(pixels: bytes, interval: int, units: int) -> None:
    """Between `interval` units stands a restart marker, numbered round and round; some cameras end with one."""
    restarts = b"".join(_RESTART.findall(pixels))
    expected = ceil(units / interval) - 1 if interval else 0
    surplus = len(restarts) - expected
    in_turn = (_RESTARTS_IN_TURN * (len(restarts) // 8 + 1))[: len(restarts)]
    if not 0 <= surplus <= bool(interval) or restarts != in_turn:
        raise ValueError("restart markers missing or out of order")
