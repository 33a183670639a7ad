"""Cuts what a program writes into pictures. Bytes come in lumps of any size; at most one unfinished picture is kept."""

import re
from collections.abc import Sequence
from typing import Literal, Protocol

MAX_JPEG_BYTES = 16 << 20
"""A JPEG that has not ended after this is none."""

_START = b"\xff\xd8\xff"
_EOI, _SOI, _SOS = 0xD9, 0xD8, 0xDA
_MARKER = re.compile(rb"\xff+([\x01-\xfe])", re.DOTALL)
_ALONE = frozenset({0x01, *range(0xD0, 0xD8)})  # markers without a length, that stand in coded pixels only
_END_OF_SCAN = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]", re.DOTALL)  # neither a stuffed FF nor a restart marker


class Splitter(Protocol):
    """Finds pictures in a stream of bytes."""

    broken: int
    """Pictures that were begun and never ended."""

    def feed(self, data: bytes) -> Sequence[bytearray]:
        """The pictures that are complete now, in memory of their own. Raises ValueError when this can't go on."""


class RawSplitter:
    """Raw pictures, all of the same size, with nothing between them."""

    def __init__(self, picture_bytes: int) -> None:
        self.broken = 0
        self._picture_bytes = picture_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Sequence[bytearray]:
        self._buffer += data
        size = self._picture_bytes
        end = len(self._buffer) // size * size
        pictures = [self._buffer[at : at + size] for at in range(0, end, size)]
        del self._buffer[:end]
        return pictures


class JpegSplitter:
    """JPEGs, with anything between them, such as a greeting that went to standard output.

    Walks from segment to segment, so that the end of a thumbnail in the header is not taken for the picture's.
    """

    def __init__(self) -> None:
        self.broken = 0
        self._buffer = bytearray()
        self._at = 0  # where the walk stands in the picture that begins the buffer; 0: no picture begins there
        self._known = 0  # behind the last marker: where to look for the next picture, should this one be torn
        self._in_scan = False

    def feed(self, data: bytes) -> Sequence[bytearray]:
        self._buffer += data
        pictures = []
        while (self._at or self._find_start()) and (outcome := self._walk()) != "unfinished":
            if outcome == "whole":
                pictures.append(self._buffer[: self._at])
            else:
                self.broken += 1
            del self._buffer[: self._at if outcome == "whole" else self._known]
            self._at = 0
        if len(self._buffer) > MAX_JPEG_BYTES:
            raise ValueError(f"a JPEG over {MAX_JPEG_BYTES >> 20} MiB")
        return pictures

    def _find_start(self) -> bool:
        """Drop what stands before the next picture."""
        start = self._buffer.find(_START)
        if start < 0:
            del self._buffer[: max(0, len(self._buffer) - len(_START) + 1)]
            return False
        del self._buffer[:start]
        self._at, self._known, self._in_scan = 2, 2, False
        return True

    def _walk(self) -> Literal["whole", "torn", "unfinished"]:
        """Go on from segment to segment as far as the bytes reach."""
        buffer = self._buffer
        while self._at < len(buffer):
            if self._in_scan and not self._skip_scan():
                return "unfinished"
            found = _MARKER.match(buffer, self._at)
            if found is None:
                return "unfinished" if buffer.count(0xFF, self._at) == len(buffer) - self._at else "torn"
            marker, behind = found[1][0], found.end()
            if marker == _EOI:
                self._at = behind
                return "whole"
            if marker == _SOI or marker in _ALONE:
                self._known = found.start() if marker == _SOI else behind
                return "torn"
            if len(buffer) < behind + 2:
                return "unfinished"
            self._at, self._known = behind + int.from_bytes(buffer[behind : behind + 2], "big"), behind
            self._in_scan = marker == _SOS
        return "unfinished"

    def _skip_scan(self) -> bool:
        """Go on to the end of the coded pixels; False when it has not come yet."""
        found = _END_OF_SCAN.search(self._buffer, self._at)
        if found is None:
            self._at = max(self._at, len(self._buffer) - 1)  # the last byte may be half a marker
            return False
        self._at, self._in_scan = found.start(), False
        return True
