"""A collector's store as Parquet files: by stream, and by the hour in which messages came.

    FOLDER/messages/stream=results/date=2026-11-27/hour=13/part-9f3c-000017.parquet
    FOLDER/pictures/date=2026-11-27/hour=13/part-9f3c-000017.parquet
    FOLDER/journal.db

A file can't take one message more, nor tell that it has one already. So messages go into the journal first, which is
the SQLite store, and are acknowledged from there. When its hour is over, or it holds ROLL_BYTES, it is written out as
files: each synced and renamed into its place, then the journal forgets the messages in one transaction. After a crash
in between, the same names are written again, with the same messages and perhaps more: no message is in two files.

What stays in the journal of what was written out: for each device a row per piece of the chain that is whole, from
one number to another (one row, mostly), each gap, and the keys of pictures. That is enough to drop duplicates, to
acknowledge, and for the report.
"""

import contextlib
import os
import secrets
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, Self

from agent.runtime.files import fsync_dir
from tools.collect_messages import GAP, Numbered, Picture
from tools.collect_store import MESSAGES, Store, Stored, open_sqlite
from tools.operator_login import OperatorError, UsageError

ROLL_BYTES = 64 << 20
"""Of the journal; a file is a tenth of it or less. An hour that has more gets several files for each stream."""
ROWS = 20_000
"""Of a row group."""

_TABLES = (
    """CREATE TABLE IF NOT EXISTS pieces (device TEXT NOT NULL, head BIGINT NOT NULL, seq BIGINT NOT NULL,
       prev BIGINT NOT NULL, total INTEGER NOT NULL, jumps INTEGER NOT NULL, kind TEXT NOT NULL, payload TEXT NOT NULL,
       PRIMARY KEY (device, seq)) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS order_seen (device TEXT PRIMARY KEY, highest BIGINT NOT NULL, late BIGINT NOT NULL)
       WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS roll (name TEXT NOT NULL, part INTEGER NOT NULL, hour TEXT NOT NULL,
       pictures INTEGER NOT NULL, pages INTEGER NOT NULL)""",
)
_PIECES = "SELECT device, head, seq, prev, total, jumps, kind, payload FROM pieces"


class _Piece(NamedTuple):
    """A part of a device's chain without a hole: messages from `head` to `seq`, behind `prev`."""

    device: str
    head: int
    seq: int
    prev: int
    total: int
    jumps: int
    kind: str = ""
    payload: str = ""
    """Of a gap; the report counts what it announces."""


def open_parquet(folder: Path) -> "ParquetStore":
    """The store in a folder, which is made if it is not there.

    Raises:
        UsageError: pyarrow is not installed.
        OperatorError: the folder can't be used.
    """
    try:
        import pyarrow as _  # noqa: PLC0415, F401, ICN001 - only who wants it has it
    except ImportError as exc:
        raise UsageError("--store parquet: pip install 'edge-agent[parquet]'") from exc
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise OperatorError(f"--store parquet:{folder}: {exc.strerror}") from exc
    return ParquetStore(folder, roll_bytes=ROLL_BYTES)


class ParquetStore(Store):
    """Several collectors may share one on the same machine: the journal's lock keeps them apart."""

    _chain = f"({MESSAGES} UNION ALL {_PIECES}) AS chain"

    def __init__(
        self, folder: Path, *, roll_bytes: int, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        """Raises OperatorError: the journal can't be opened."""
        self._folder, self._now, self._roll_bytes = folder, now, roll_bytes
        super().__init__(open_sqlite(str(folder / "journal.db")), "?", "INTEGER PRIMARY KEY", "BLOB", sqlite3.Error)
        with self._transaction():
            for table in _TABLES:
                self._run(table)
            first = secrets.token_hex(4), 1, self._hour(), 0, self._pages()
            self._run("INSERT INTO roll SELECT ?, ?, ?, ?, ? WHERE NOT EXISTS (SELECT 1 FROM roll)", *first)

    def put(self, messages: Iterable[Numbered | Picture], floors: Mapping[str, int]) -> Stored:
        self.tend()
        return super().put(messages, floors)

    def tend(self) -> None:
        """Write the journal out when its hour is over, or when it is large.

        Raises:
            OperatorError: a file can't be written; all is still in the journal.
        """
        if not self._is_due():
            return
        with self._transaction():
            if self._is_due():  # no other collector was faster
                self._roll()

    def late(self) -> dict[str, int]:
        seen = {device: (highest, late) for device, highest, late in self._read("SELECT * FROM order_seen")}
        for device, seq in self._read("SELECT device, seq FROM messages ORDER BY n"):
            seen[device] = _next_seen(seen.get(device), seq)
        return {device: late for device, (_, late) in seen.items() if late}

    # --- inside ---------------------------------------------------------------------------------------------------

    def _put_message(self, m: Numbered) -> bool:
        piece = "SELECT head FROM pieces WHERE device = ? AND seq >= ? ORDER BY seq LIMIT 1"
        found = self._run(piece, m.device, m.seq).fetchone()
        return super()._put_message(m) if found is None or m.seq < found[0] else False

    def _hour(self) -> str:
        return self._now().strftime("date=%Y-%m-%d/hour=%H")

    def _pages(self) -> int:
        """In use, of the journal's file."""
        (pages,), (free,) = self._row("PRAGMA page_count"), self._row("PRAGMA freelist_count")
        return int(pages - free)

    def _row(self, statement: str) -> tuple[Any, ...]:
        return tuple(*self._read(statement))

    def _is_due(self) -> bool:
        hour, pages = self._row("SELECT hour, pages FROM roll")
        (page_bytes,) = self._row("PRAGMA page_size")
        return bool(hour != self._hour() or (self._pages() - pages) * page_bytes > self._roll_bytes)

    def _roll(self) -> None:
        name, part, hour, pictures = self._row("SELECT name, part, hour, pictures FROM roll")
        place = f"{hour}/part-{name}-{part:06}.parquet"
        chains: dict[str, list[_Piece]] = defaultdict(list)
        seen = {device: (highest, late) for device, highest, late in self._read("SELECT * FROM order_seen")}
        with _Files(self._folder, place) as files:
            rows = "SELECT device, seq, prev, topic, kind, time, jumps, payload FROM messages ORDER BY n"
            for device, seq, prev, topic, kind, time, jumps, payload in self._read(rows):
                stream = topic.partition(f"/devices/{device}/")[2].partition("/")[0]
                files.add(f"messages/stream={stream}", (device, seq, prev, topic, kind, _timestamp(time), payload))
                told = (kind, payload) if kind.startswith(GAP) else ("", "")
                chains[device].append(_Piece(device, seq, seq, prev, 1, jumps, *told))
                seen[device] = _next_seen(seen.get(device), seq)
            rows = (
                "SELECT rowid, device, topic, event_id, captured_at, jpeg FROM pictures WHERE rowid > ? ORDER BY rowid"
            )
            for row, device, topic, event_id, captured_at, jpeg in self._read(rows, pictures):
                files.add("pictures", (device, topic, event_id, _timestamp(captured_at), jpeg))
                pictures = row
        self._forget(chains, seen, pictures)

    def _forget(self, chains: Mapping[str, list[_Piece]], seen: Mapping[str, tuple[int, int]], pictures: int) -> None:
        """Keep of what was written out only what is needed to know it again."""
        for device, pieces in chains.items():
            edge = "SELECT coalesce(max(seq), 0) FROM pieces WHERE device = ? AND seq < ?"
            (first,) = self._run(edge, device, min(piece.seq for piece in pieces)).fetchone()
            old = self._run("SELECT * FROM pieces WHERE device = ? AND seq >= ?", device, first).fetchall()
            self._run("DELETE FROM pieces WHERE device = ? AND seq >= ?", device, first)
            for piece in _join([*(_Piece(*row) for row in old), *pieces]):
                self._run("INSERT INTO pieces VALUES (?, ?, ?, ?, ?, ?, ?, ?)", *piece)
        for device, (highest, late) in seen.items():
            self._run("INSERT OR REPLACE INTO order_seen VALUES (?, ?, ?)", device, highest, late)
        self._run("DELETE FROM messages")
        self._run("UPDATE pictures SET jpeg = x'' WHERE rowid > (SELECT pictures FROM roll)")
        done = self._hour(), pictures, self._pages()
        self._run("UPDATE roll SET part = part + 1, hour = ?, pictures = ?, pages = ?", *done)


def _next_seen(seen: tuple[int, int] | None, seq: int) -> tuple[int, int]:
    """The highest number of a device so far, and how many came behind a higher one."""
    highest, late = seen or (seq, 0)
    return max(highest, seq), late + (seq < highest)


def _join(pieces: Iterable[_Piece]) -> Iterator[_Piece]:
    """Neighbours as one. What jumps stays by itself: a reader has to see where."""
    last: _Piece | None = None
    for piece in sorted(pieces, key=lambda piece: piece.seq):
        if last is not None and piece.prev == last.seq and not (piece.jumps or last.jumps):
            last = last._replace(seq=piece.seq, total=last.total + piece.total)
            continue
        if last is not None:
            yield last
        last = piece
    if last is not None:
        yield last


def _timestamp(text: str) -> datetime | None:
    """None when a device says no valid one; a message's payload still has what it said."""
    with contextlib.suppress(ValueError, OverflowError):
        when = datetime.fromisoformat(text)
        return when.astimezone(UTC) if when.tzinfo else None
    return None


def _schemas() -> dict[str, Any]:
    import pyarrow as pa  # noqa: PLC0415 - see `open_parquet`

    time, text = pa.timestamp("ms", tz="UTC"), pa.string()
    number = pa.field("seq", pa.int64()), pa.field("prev", pa.int64())
    device, topic = pa.field("device", text), pa.field("topic", text)
    message = [device, *number, topic, pa.field("schema", text), pa.field("time", time), pa.field("payload", text)]
    tail = [pa.field("event_id", text), pa.field("captured_at", time), pa.field("jpeg", pa.binary())]
    return {"messages": pa.schema(message), "pictures": pa.schema([device, topic, *tail])}


class _Files:
    """Files that are written together, one for each branch; in their place and durable when `with` ends well."""

    def __init__(self, folder: Path, place: str) -> None:
        self._folder, self._place = folder, place
        self._schemas = _schemas()
        self._open: dict[str, tuple[Any, Any]] = {}
        self._rows: dict[str, list[tuple[object, ...]]] = defaultdict(list)

    def __enter__(self) -> Self:
        return self

    def add(self, branch: str, row: tuple[object, ...]) -> None:
        """Raises OperatorError: it can't be written."""
        self._rows[branch].append(row)
        if len(self._rows[branch]) >= ROWS:
            with self._trouble():
                self._flush(branch)

    def __exit__(self, kind: object, *_: object) -> None:
        with self._trouble():
            try:
                for branch in [branch for branch, rows in self._rows.items() if rows and kind is None]:
                    self._flush(branch)
                for branch, (file, writer) in self._open.items():
                    with file:
                        writer.close()
                        file.flush()
                        os.fsync(file.fileno())
                    if kind is None:
                        self._settle(branch)
            finally:
                for branch, (file, _writer) in self._open.items():
                    file.close()
                    self._temporary(branch).unlink(missing_ok=True)

    def _flush(self, branch: str) -> None:
        import pyarrow as pa  # noqa: PLC0415 - see `open_parquet`
        import pyarrow.parquet as pq  # noqa: PLC0415

        schema = self._schemas[branch.partition("/")[0]]
        if branch not in self._open:
            temporary = self._temporary(branch)
            temporary.parent.mkdir(parents=True, exist_ok=True)
            file = temporary.open("wb")
            self._open[branch] = file, pq.ParquetWriter(file, schema, compression="zstd")
        columns = zip(*self._rows.pop(branch), strict=True)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        self._open[branch][1].write_table(pa.Table.from_arrays(arrays, schema=schema))

    def _settle(self, branch: str) -> None:
        path = self._folder / branch / self._place
        os.replace(self._temporary(branch), path)
        while path != self._folder:  # each folder on the way may be new
            path = path.parent
            fsync_dir(path)

    def _temporary(self, branch: str) -> Path:
        """Readers leave out what begins with a dot."""
        path = self._folder / branch / self._place
        return path.with_name(f".{path.name}.tmp")

    @contextlib.contextmanager
    def _trouble(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            raise OperatorError(f"--store parquet:{self._folder}: {exc.strerror or exc}") from exc
