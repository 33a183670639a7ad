"""Where a collector stores: SQLite or PostgreSQL, the same tables and the same statements in both; or Parquet files.

A batch is one transaction: the messages, and how far each device's chain is whole. Only when it is on the disk may it
be acknowledged. Several collectors may write to one store: who is second waits for the first, and sees what it stored.
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tools.collect_messages import GAP, Numbered, Picture
from tools.operator_login import OperatorError, UsageError

GIVEN_UP_AFTER = 5
"""A device that has sent what lies behind a hole so many times, and not what is missing, does not have it."""
LOCKED_S = 30.0
"""How long one collector waits for another."""
_STEP = 256
_NO_END = 2**53

_TABLES = (
    """CREATE TABLE IF NOT EXISTS messages (n {counter}, device TEXT NOT NULL,
       seq BIGINT NOT NULL, prev BIGINT NOT NULL, topic TEXT NOT NULL, kind TEXT NOT NULL,
       time TEXT NOT NULL, jumps INTEGER NOT NULL, payload TEXT NOT NULL, UNIQUE (device, seq))""",
    "CREATE INDEX IF NOT EXISTS jumps ON messages (device, seq) WHERE jumps = 1",
    """CREATE TABLE IF NOT EXISTS pictures (device TEXT NOT NULL, topic TEXT NOT NULL, event_id TEXT NOT NULL,
       captured_at TEXT NOT NULL, jpeg {bytes} NOT NULL, UNIQUE (device, topic, event_id))""",
    "CREATE TABLE IF NOT EXISTS devices (device TEXT PRIMARY KEY, whole_to BIGINT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS begun_again (device TEXT PRIMARY KEY, whole_to BIGINT NOT NULL)",
)

_INSERT = """INSERT INTO messages (device, seq, prev, topic, kind, time, jumps, payload)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""


MESSAGES = "SELECT device, seq AS head, seq, prev, 1 AS total, jumps, kind, payload FROM messages"
"""Each as a piece of its device's chain, of one message; see `Store.chain`."""


class Database(Protocol):
    """What sqlite3 and psycopg have in common."""

    def execute(self, statement: str, values: Sequence[Any] = ..., /) -> Any: ...
    def close(self) -> None: ...


@dataclass
class Stored:
    """What became of a batch."""

    new: int = 0
    duplicates: int = 0
    whole_to: dict[str, int] = field(default_factory=dict)
    """By device: up to here nothing is missing. For every device in the batch."""
    gaps: list[Numbered] = field(default_factory=list)
    """That were announced."""
    given_up: list[tuple[str, int, int]] = field(default_factory=list)
    """Device, and the numbers that its chain lacks between: it does not have them any more, and announced nothing."""
    begun_again: list[tuple[str, int]] = field(default_factory=list)
    """Device, and the first number of a chain that begins below what it had sent before: see `_advance_again`."""


def open_store(url: str) -> "Store":
    """`sqlite:FILE`, `postgresql://[user@]host/name` or `parquet:FOLDER`. Makes what is not there.

    Raises:
        UsageError: no such kind of store, or its library is not installed.
        OperatorError: it can't be opened; one line that says why.
    """
    scheme, _, path = url.partition(":")
    if scheme == "sqlite" and path.lstrip("/"):
        return Store(open_sqlite(path), "?", "INTEGER PRIMARY KEY", "BLOB", sqlite3.Error)
    if scheme == "parquet" and path.lstrip("/"):
        from tools.collect_parquet import open_parquet  # noqa: PLC0415 - it builds on this module

        return open_parquet(Path(path))
    if scheme in ("postgresql", "postgres"):
        return _open_postgresql(url)
    raise UsageError(f"--store {url}: expected sqlite:FILE, parquet:FOLDER or postgresql://[user@]host/name")


def open_sqlite(path: str) -> sqlite3.Connection:
    """A file, made if it is not there; what is committed is on the disk.

    Raises:
        OperatorError: it can't be opened; one line that says why.
    """
    try:
        connection = sqlite3.connect(Path(path), timeout=LOCKED_S, isolation_level=None)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as exc:
        raise OperatorError(f"--store sqlite:{path}: {exc}") from exc
    return connection


def _open_postgresql(url: str) -> "Store":
    try:
        import psycopg  # noqa: PLC0415 - only who wants it has it
    except ImportError as exc:
        raise UsageError("--store postgresql: pip install 'edge-agent[postgresql]'") from exc
    counter = "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY"
    try:
        connection = psycopg.connect(url, autocommit=True, connect_timeout=15)
        connection.execute("SET synchronous_commit = on")
        connection.execute(f"SET lock_timeout = '{LOCKED_S:g}s'")
    except psycopg.Error as exc:  # its text names the host, never the password
        raise OperatorError(f"--store: {str(exc).splitlines()[0]}") from exc
    return Store(connection, "%s", counter, "BYTEA", psycopg.Error)


class Store:
    """One connection to a database. Made by `open_store`; close it."""

    _chain = f"({MESSAGES}) AS chain"

    def __init__(self, database: Database, mark: str, counter: str, bytes_type: str, error: type[Exception]) -> None:
        self._database, self._mark, self._error = database, mark, error
        self._repeats: dict[tuple[str, bool], tuple[int, int]] = {}
        """By device, and whether it began again: the message behind its hole, and how often it came."""
        with self._transaction():
            for table in _TABLES:
                self._run(table.format(counter=counter, bytes=bytes_type))

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def put(self, messages: Iterable[Numbered | Picture], floors: Mapping[str, int]) -> Stored:
        """Store a batch; it is on the disk when this returns.

        Args:
            messages: in the order they came.
            floors: by device, what collectors had acknowledged before; for devices that the store does not know.

        Raises:
            OperatorError: the database failed; nothing of the batch is stored.
        """
        stored = Stored()
        again: list[Numbered] = []
        newest: dict[str, int] = {}
        fresh: dict[str, Numbered] = {}  # by device: the lowest that is new
        with self._transaction():
            for message in messages:
                if isinstance(message, Picture):
                    self._put_picture(message)
                elif self._put_message(message):
                    stored.new += 1
                    fresh[message.device] = min(message, fresh.get(message.device, message), key=lambda one: one.seq)
                    stored.gaps += [message] * message.is_gap
                else:
                    stored.duplicates += 1
                    again += [message] * (not message.repeated)
                if isinstance(message, Numbered):
                    stored.whole_to[message.device] = 0
                    newest[message.device] = max(message.seq, newest.get(message.device, 0))
            for device in sorted(stored.whole_to):  # in one order, so that two collectors can't wait for each other
                whole_to = self._advance(device, floors.get(device, 0), again, stored)
                if newest[device] >> 32 < whole_to >> 32:
                    whole_to = self._advance_again(device, fresh.get(device), newest[device], again, stored) or whole_to
                stored.whole_to[device] = whole_to
        return stored

    def tend(self) -> None:
        """To be called now and then, while nothing comes. A database needs nothing."""

    def devices(self) -> list[str]:
        """Whoever sent anything.

        Raises:
            OperatorError: the database failed.
        """
        return [device for (device,) in self._read("SELECT device FROM devices ORDER BY device")]

    def chain(self, device: str) -> Iterator[tuple[int, int, int, int, bool]]:
        """The pieces of a device's chain, in order: first and last `seq`, `prev` of the first, how many messages, and
        whether it may jump (see `Numbered`). A piece has no hole; here each message is one.

        Raises:
            OperatorError: the database failed.
        """
        yield from self._read("SELECT head, seq, prev, total, jumps FROM {chain} WHERE device = ? ORDER BY seq", device)

    def gaps(self, device: str) -> list[str]:
        """Payloads of the gaps that a device announced.

        Raises:
            OperatorError: the database failed.
        """
        gaps = "SELECT payload FROM {chain} WHERE device = ? AND jumps = 1 AND kind LIKE ? ORDER BY seq"
        return [payload for (payload,) in self._read(gaps, device, f"{GAP}%")]

    def late(self) -> dict[str, int]:
        """By device, how many messages came for the first time behind one with a higher number.

        Raises:
            OperatorError: the database failed.
        """
        before = "max(seq) OVER (PARTITION BY device ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)"
        inner = f"SELECT device, seq, {before} AS highest FROM messages"  # noqa: S608 - no value of anybody's in it
        return dict(self._read(f"SELECT device, count(*) FROM ({inner}) AS o WHERE seq < highest GROUP BY device"))  # noqa: S608

    # --- inside ---------------------------------------------------------------------------------------------------

    def _run(self, statement: str, *values: object) -> Any:
        return self._database.execute(statement.replace("{chain}", self._chain).replace("?", self._mark), values)

    def _read(self, statement: str, *values: object) -> Iterator[Any]:
        try:
            yield from self._run(statement, *values)
        except self._error as exc:
            raise _failed(exc) from exc

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._run("BEGIN IMMEDIATE" if self._mark == "?" else "BEGIN")
            yield
            self._run("COMMIT")
        except self._error as exc:
            raise _failed(exc) from exc

    def _put_message(self, m: Numbered) -> bool:
        """False when it is there already."""
        values = m.device, m.seq, m.prev, m.topic, m.kind, m.time, int(m.jumps), m.payload
        return bool(self._run(_INSERT, *values).rowcount)

    def _put_picture(self, picture: Picture) -> None:
        values = picture.device, picture.topic, picture.event_id, picture.captured_at, picture.jpeg
        self._run("INSERT INTO pictures VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", *values)

    def _advance(self, device: str, floor: int, again: list[Numbered], stored: Stored) -> int:
        """Follow the chain from where it was whole to, and remember how far that is now."""
        self._run("INSERT INTO devices VALUES (?, ?) ON CONFLICT DO NOTHING", device, floor)
        # Also a lock on the device: what another collector has just stored is to be seen from here on.
        self._run("UPDATE devices SET whole_to = whole_to WHERE device = ?", device)
        (before,) = self._run("SELECT whole_to FROM devices WHERE device = ?", device).fetchone()
        whole_to = self._step(device, before, _NO_END, again, stored)
        if whole_to > before:
            self._run("UPDATE devices SET whole_to = ? WHERE device = ?", whole_to, device)
        return whole_to

    def _advance_again(
        self, device: str, fresh: Numbered | None, newest: int, again: list[Numbered], stored: Stored
    ) -> int:
        """How far the chain is whole of a device whose numbers went back: it has a new card, and its clock was behind
        when it first started; or an older outbox came back with an image of its card. It can't believe a number that it
        has not come to, so it is told of this chain alone. 0: its numbers did not go back.
        """
        found = self._run("SELECT whole_to FROM begun_again WHERE device = ?", device).fetchone()
        if found is None or (fresh is not None and fresh.seq <= found[0]):
            if fresh is None or not (fresh.prev == 0 or self._has(device, fresh.prev)):
                return int(found[0]) if found else 0
            self._run("DELETE FROM begun_again WHERE device = ?", device)
            self._run("INSERT INTO begun_again VALUES (?, ?)", device, fresh.prev)
            stored.begun_again.append((device, fresh.seq))
            found = (fresh.prev,)
        whole_to: int = max(found[0], min(self._step(device, found[0], newest, again, stored), newest))
        self._run("UPDATE begun_again SET whole_to = ? WHERE device = ?", whole_to, device)
        return whole_to

    def _has(self, device: str, seq: int) -> bool:
        inside = "SELECT 1 FROM {chain} WHERE device = ? AND seq >= ? AND head <= ? LIMIT 1"
        return self._run(inside, device, seq, seq).fetchone() is not None

    def _step(self, device: str, whole_to: int, last: int, again: list[Numbered], stored: Stored) -> int:
        """How far the chain is whole from `whole_to` on, at most to `last`; over holes that will not be filled."""
        whole_to, behind = self._follow(device, whole_to, last)
        if behind is not None and self._is_given_up((device, last != _NO_END), behind, again):
            stored.given_up.append((device, whole_to, behind[1]))
            whole_to, _ = self._follow(device, behind[1], last)
        return whole_to

    def _follow(self, device: str, whole_to: int, last: int) -> tuple[int, tuple[int, int] | None]:
        """How far nothing is missing from `whole_to` on, at most to `last`; and `seq` and `prev` of what lies behind a
        hole there.

        A message says that there is nothing between its `prev` and itself. So it is next where `prev` is not behind
        what we have; nearly always it is the same.
        """
        rows = "SELECT seq, prev FROM {chain} WHERE device = ? AND seq > ? AND head <= ? ORDER BY seq LIMIT ?"
        over = "SELECT max(seq) FROM {chain} WHERE device = ? AND jumps = 1 AND seq > ? AND head <= ? AND prev <= ?"
        while True:
            found = self._run(rows, device, whole_to, last, _STEP).fetchall()
            before = whole_to
            for seq, prev in found:
                if prev > whole_to:
                    break
                whole_to = seq
            if whole_to > before:
                continue
            (jump,) = self._run(over, device, whole_to, last, whole_to).fetchone()
            if jump is None:
                return whole_to, (found[0] if found else None)
            whole_to = jump

    def _is_given_up(self, chain: tuple[str, bool], behind: tuple[int, int], again: list[Numbered]) -> bool:
        """Whether the device has sent what lies behind its hole, again and again, and not what is missing."""
        seq, times = self._repeats.get(chain, (0, 0))
        times = times if seq == behind[0] else 0
        times += sum(message.device == chain[0] and message.seq == behind[0] for message in again)
        self._repeats[chain] = behind[0], times
        return times >= GIVEN_UP_AFTER


def _failed(error: Exception) -> OperatorError:
    return OperatorError(f"--store: {(str(error) or type(error).__name__).splitlines()[0]}")
