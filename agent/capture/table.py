"""Recorded readings: a CSV file with a header, and a row for each reading."""

import datetime as dt
import itertools
import math
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from agent.capture.frames import Pacer
from agent.capture.lines import MAX_LINE_BYTES
from agent.capture.readings import BadReading, make_reading, parse_number, split_csv
from agent.config import CsvSource
from agent.errors import SourceError, SourceUnusable
from agent.values import Frame

_LOOKED_AT = 100
"""So many rows say which columns hold numbers."""
_MAX_TIME_S = 4e9
"""Until the year 2096; later ones are damage, or milliseconds."""
_BOM = b"\xef\xbb\xbf"


class Row(NamedTuple):
    """A sound row."""

    time_s: float
    values: list[float]


class Rows:
    """A file once from start to end. An empty cell is a missing value.

    Broken rows are left out and counted: too many or too few cells, a cell that is no number, a time that is none or
    goes back.
    """

    def __init__(self, spec: CsvSource) -> None:
        """Open the file and read its header.

        Raises:
            SourceUnusable: it can't be read, or has no such columns.
        """
        self.broken = 0
        self.fault = ""
        """What was wrong with the first broken row."""
        self._spec = spec
        self._last_s = -math.inf
        self._number = 0
        try:
            self._file: BinaryIO = Path(spec.path).open("rb")  # noqa: SIM115 - close() closes it
        except OSError as exc:
            raise SourceUnusable(f"{spec.path}: {exc.strerror or exc}") from exc
        try:
            self._lines = lines_of(self._file)
            self._header = split_csv((next(self._lines, b"") or b"").removeprefix(_BOM), spec.delimiter)
            ahead = list(itertools.islice(self._lines, _LOOKED_AT))
            self._lines = itertools.chain(ahead, self._lines)
            self.channels = spec.channels or self._columns_of_numbers(ahead)
            self._places = [self._place(name) for name in self.channels]
            self._time_place = None if spec.time_column is None else self._place(spec.time_column)
        except (OSError, BadReading) as exc:
            self.close()
            raise SourceUnusable(f"{spec.path}: {exc.strerror if isinstance(exc, OSError) else exc}") from exc

    def next(self) -> Row | None:
        """The next sound row; None at the end. Raises OSError."""
        for line in self._lines:
            if line is not None and not line.strip():
                continue
            self._number += 1
            try:
                row = self._parse(line)
            except BadReading as exc:
                self.broken += 1
                self.fault = self.fault or f"row {self._number}: {exc}"
                continue
            self._last_s = row.time_s
            return row
        return None

    def close(self) -> None:
        self._file.close()

    def _parse(self, line: bytes | None) -> Row:
        cells = self._cells(line)
        values = [parse_number(cells[place]) for place in self._places]
        if self._time_place is None:
            return Row((self._number - 1) / self._spec.rate_hz, values)
        time_s = parse_time(cells[self._time_place])
        if time_s < self._last_s:
            raise BadReading("its time is before that of the row above")
        return Row(time_s, values)

    def _cells(self, line: bytes | None) -> list[str]:
        if line is None:
            raise BadReading(f"longer than {MAX_LINE_BYTES} bytes")
        cells = split_csv(line, self._spec.delimiter)
        if len(cells) != len(self._header):
            raise BadReading(f"{len(cells)} cells, expected {len(self._header)} as in the header")
        return cells

    def _place(self, name: str) -> int:
        places = [place for place, header in enumerate(self._header) if header == name]
        if len(places) != 1:
            have = ", ".join(self._header)[:200]
            raise BadReading(f"{len(places) or 'no'} columns {name!r} in the header, expected one; it has: {have}")
        return places[0]

    def _columns_of_numbers(self, lines: Iterable[bytes | None]) -> tuple[str, ...]:
        """Those with more numbers than other things in these rows."""
        balance = [0] * len(self._header)
        for line in lines:
            try:
                cells = self._cells(line)
            except BadReading:
                continue
            for place, cell in enumerate(cells):
                balance[place] += _vote(cell)
        found = [
            name
            for name, votes in zip(self._header, balance, strict=True)
            if votes > 0 and name != self._spec.time_column
        ]
        if not found:
            raise BadReading("no column with numbers; is the first line a header, and the delimiter right?")
        return tuple(found)


class Table:
    """A recording of readings, at its own pace or as fast as it goes, once or over and over.

    `position_ns` is counted from the first row and starts again with it.
    """

    def __init__(self, spec: CsvSource) -> None:
        self.name = spec.path
        self.broken = 0
        self._spec = spec
        self._closed = threading.Event()
        self._pacer = Pacer(self._closed)
        self._rows: Rows | None = None
        self._first_s: float | None = None  # None: no row of this pass yet
        self._last_s = self._step_s = 0.0
        self._played_s = 0.0
        self._broken_before = 0
        self._index = 0

    def open(self, first_index: int = 0) -> None:
        self._index = first_index
        self._rows = Rows(self._spec)

    def read(self) -> Frame | None:
        if self._rows is None or self._closed.is_set():
            raise SourceError(f"{self.name}: closed")
        row = self._next_row(self._rows)
        if row is None:
            return None
        is_first = self._first_s is None
        if self._first_s is None:
            self._first_s = self._last_s = row.time_s
        self._step_s, self._last_s = row.time_s - self._last_s, row.time_s
        position_s = row.time_s - self._first_s
        if self._spec.realtime and not self._pacer.wait(self._played_s + position_s):
            raise SourceError(f"{self.name}: closed")
        position_ns = round(position_s * 1e9)
        frame = make_reading(row.values, self._rows.channels, self._index, is_first=is_first, position_ns=position_ns)
        self._index += 1
        return frame

    def interrupt(self) -> None:
        self._closed.set()

    def close(self) -> None:
        self._closed.set()
        rows, self._rows = self._rows, None
        if rows is not None:
            rows.close()

    def _next_row(self, rows: Rows) -> Row | None:
        """The next sound row, of the next pass if need be; None at the end."""
        try:
            row = rows.next()
        except OSError as exc:
            raise SourceError(f"{self.name}: {exc.strerror or exc}") from exc
        self.broken = self._broken_before + rows.broken
        if row is not None:
            return row
        if self._first_s is None:  # looping over nothing would spin
            raise SourceUnusable(f"{self.name}: not one row in it can be read; {rows.fault or 'there is none'}")
        if not self._spec.loop:
            return None
        # One row, or all of one moment: they would come again at once, and spin.
        self._played_s += (self._last_s - self._first_s + self._step_s) or 1.0 / self._spec.rate_hz
        self._first_s, self._broken_before = None, self.broken
        rows.close()
        self._rows = Rows(self._spec)
        return self._next_row(self._rows)


def lines_of(file: BinaryIO) -> Iterator[bytes | None]:
    """Lines of a file; None for each that is longer than a line may be. Raises OSError."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        if len(line) <= MAX_LINE_BYTES:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES)
        yield None


def parse_time(text: str) -> float:
    """Seconds, from a number of them or a date and time as in RFC 3339; without a zone it is UTC.

    Raises:
        BadReading: it is neither, or beyond 2096.
    """
    try:
        time_s = parse_number(text)
    except BadReading:
        try:
            moment = dt.datetime.fromisoformat(text)
        except ValueError as exc:
            raise BadReading(f"expected a time in seconds or as in RFC 3339, got {text[:64]!r}") from exc
        time_s = (moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)).timestamp()
    if not abs(time_s) <= _MAX_TIME_S:
        raise BadReading(f"expected a time in seconds, got {text[:64]!r}")
    return time_s


def _vote(cell: str) -> int:
    """1 for a number, -1 for something else, 0 for an empty cell."""
    try:
        return 0 if math.isnan(parse_number(cell)) else 1
    except BadReading:
        return -1
