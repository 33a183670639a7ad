"""Readings that come as lines, from a serial port or a program."""

import threading
import time
from collections import deque
from pathlib import Path
from typing import Protocol

from agent.capture.child import Child
from agent.capture.frames import first_frame_s
from agent.capture.readings import BadReading, Parse, csv_parser, json_parser, make_reading, named
from agent.config import ExecSource, Places
from agent.errors import SourceError
from agent.values import Frame

MAX_LINE_BYTES = 64 << 10
"""Longer lines are left out."""

_CHUNK_BYTES = 64 << 10


class Port(Protocol):
    """Gives bytes as they come; `agent.capture.child.Child` is one."""

    name: str

    def open(self) -> None:
        """Raises SourceError when it is away or refuses."""

    def read(self, max_bytes: int, timeout_s: float) -> bytes:
        """Wait for bytes: at least one. Raises SourceError when none came in time, it is lost, or was interrupted."""

    def interrupt(self) -> None:
        """Have `read` come back soon with SourceError, now and from now on. From any thread, at any time."""

    def close(self) -> None:
        """Again, or without an open, it does nothing."""


class LineSplitter:
    """Cuts bytes into lines; holds no more than one line of them."""

    def __init__(self, *, joins_late: bool = False) -> None:
        """`joins_late`: the first line may lack its beginning, and is not given out."""
        self._rest = b""
        self._skipping = joins_late

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that are complete now, without their ends; None for each that is longer than a line may be."""
        *ends, rest = data.split(b"\n")
        lines: list[bytes | None] = []
        for end in ends:
            line, self._rest = self._rest + end, b""
            if not self._skipping:
                lines.append(line.removesuffix(b"\r") if len(line) <= MAX_LINE_BYTES else None)
            self._skipping = False
        if not self._skipping:
            self._rest += rest
        if len(self._rest) > MAX_LINE_BYTES:
            self._rest, self._skipping = b"", True
            lines.append(None)
        return lines


class LineSource:
    """A source whose port writes a line for each reading. Broken lines are counted and left out."""

    def __init__(
        self, port: Port, channels: tuple[str, ...], parse: Parse, *, timeout_s: float, joins_late: bool = False
    ) -> None:
        """`timeout_s`: the longest time between two readings; the first gets more."""
        self.name = port.name
        self.broken = 0
        self._port, self._channels, self._parse = port, channels, parse
        self._splitter = LineSplitter(joins_late=joins_late)
        self._lines: deque[bytes | None] = deque()
        self._timeout_s = timeout_s
        self._closed = threading.Event()
        self._index = self._first_index = 0

    def open(self, first_index: int = 0) -> None:
        self._index = self._first_index = first_index
        self._port.open()

    def read(self) -> Frame | None:
        is_first = self._index == self._first_index
        frame = make_reading(self._next_values(is_first), self._channels, self._index, is_first=is_first)
        self._index += 1
        return frame

    def interrupt(self) -> None:
        self._closed.set()
        self._port.interrupt()

    def close(self) -> None:
        self._closed.set()
        self._port.close()

    def _next_values(self, is_first: bool) -> list[float]:
        """Raises SourceError when there is no reading in time, with what came instead."""
        limit_s = first_frame_s(self._timeout_s) if is_first else self._timeout_s
        deadline_s, fault = time.monotonic() + limit_s, ""
        while not self._closed.is_set():
            while self._lines:
                try:
                    values = self._values_in(self._lines.popleft())
                except BadReading as exc:
                    self.broken += 1
                    fault = str(exc)
                    continue
                if values is not None:
                    return values
                fault = f"no {' or '.join(self._channels)[:100]} in the lines that came"
            left_s = deadline_s - time.monotonic()
            try:
                if left_s <= 0.0:  # something comes all the time
                    raise TimeoutError
                self._lines.extend(self._splitter.feed(self._port.read(_CHUNK_BYTES, left_s)))
            except OSError as exc:
                if not fault or time.monotonic() < deadline_s:
                    raise
                raise SourceError(f"{self.name}: no reading for {limit_s:.1f} s; {fault}") from exc
            fault = fault or "no line has ended"
        raise SourceError(f"{self.name}: closed")

    def _values_in(self, line: bytes | None) -> list[float] | None:
        """Raises BadReading."""
        if line is None:
            raise BadReading(f"a line is longer than {MAX_LINE_BYTES} bytes")
        return self._parse(line) if line.strip() else None


def make_lines(spec: ExecSource) -> LineSource:
    """The source of a program that writes lines; not open yet."""
    channels, parse = line_parser(spec.output, spec.channels or (), spec.delimiter)
    child = Child(spec.command, f"exec {Path(spec.command[0]).name}")
    return LineSource(child, channels, parse, timeout_s=spec.read_timeout_s)


def line_parser(form: str, channels: Places, delimiter: str) -> tuple[tuple[str, ...], Parse]:
    """Names of the channels, and what finds them in a line; `form` is `json` or `csv`."""
    places = named(channels, by_column=form == "csv")
    return tuple(places), json_parser(places) if form == "json" else csv_parser(places, delimiter)
