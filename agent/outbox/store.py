"""The outbox: what is accepted is in a file before it is published, and stays there until it is acknowledged.

- A record is written at once, so `kill -9` loses nothing: the page cache keeps it.
- `balanced`: what stays unacknowledged for a second is synced; the rest never costs the disk a write. A power cut
  loses at most the last second of it. `power`: `put` returns when its record is synced; callers share a sync.
- Ids are epoch * 2**32 + n. The epoch is durable before the first message: no id is given twice, whatever tail a
  power cut takes away.
- `prev` is the last chained message before that is still here or was acknowledged. A reader that got messages which a
  power cut took from the device sees `prev` below its last `seq`, and only where the epoch changes.
- At a bound or on a full disk the oldest segment is evicted. The hole stays in the ack file until the gap message that
  announces it is acknowledged. Damage needs no memory: the places in the chain that records name show it again.

Any thread may `put`; one thread reads (`next`, `wait`) and acknowledges; one runs `sync_loop`.
"""

import errno
import threading
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

import structlog

from agent.errors import OutboxError
from agent.outbox.ackfile import MAX_HOLES
from agent.outbox.ages import Ages, Instant, read_clocks
from agent.outbox.chain import Gap, Hole, Point, Reason, splice
from agent.outbox.epoch import begin_epoch
from agent.outbox.reader import Reader
from agent.outbox.record import StoredMessage, encode_record
from agent.outbox.recovery import Found, recover
from agent.outbox.segment import accepted_after
from agent.outbox.syncer import Syncer
from agent.values import OutboundMessage

Durability = Literal["balanced", "power"]

_AGE_STEPS = 16
"""Segments span at most this fraction of `max_age`, and it is looked after that often."""
_MAX_UNACKED = 65_535
"""No more are handed out before some are acknowledged; MQTT can't have more in flight either."""
_FULL = (errno.ENOSPC, errno.EDQUOT)

log = structlog.get_logger()


class OutboxStats(NamedTuple):
    """How the outbox is."""

    pending: int
    """Accepted and not acknowledged."""
    bytes: int
    """Size of the segments."""
    dropped: int
    """Refused or evicted since it was opened."""
    damaged: int
    """Places in the files that could not be read when it was opened."""
    oldest_age_s: float
    """Age of the oldest pending message; 0 when there is none."""


def open_outbox(
    folder: Path,
    *,
    max_bytes: int,
    max_age_s: float,
    durability: Durability,
    gap_message: Callable[[Gap], OutboundMessage],
    keep_bytes: int = 0,
    now: Callable[[], Instant] = read_clocks,
) -> "Outbox":
    """Open the outbox in a folder, which is made if it is not there. Starts no thread.

    Args:
        folder: `outbox.dir`.
        max_bytes: over this the oldest segment is evicted; several segments at least.
        max_age_s: a segment is evicted when its newest message is believed to be older (see `agent.outbox.ages`).
        durability: what `put` waits for.
        gap_message: makes the message that announces a gap: its payload is a JSON object without `seq` and `prev`.
            It is called with locks held.
        keep_bytes: so much of what is done with stays in the folder, as `{first id}.sent`, beside `max_bytes`.
        now: reads the clocks.

    Raises:
        OutboxError: one line that names the path, the key, and the mend.
    """
    with ExitStack() as opened:
        found = recover(folder, opened, max_age_s / _AGE_STEPS, now(), durability == "power", keep_bytes)
        return Outbox(folder, found, max_bytes, max_age_s, durability, gap_message, now, opened.pop_all())


class Outbox:
    """See the module. Made by `open_outbox`."""

    def __init__(
        self,
        folder: Path,
        found: Found,
        max_bytes: int,
        max_age_s: float,
        durability: Durability,
        gap_message: Callable[[Gap], OutboundMessage],
        now: Callable[[], Instant],
        opened: ExitStack,
    ) -> None:
        self.on_put: Callable[[], None] | None = None
        """Called after each accepted message, outside locks."""
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._durability = durability
        self._now = now
        self._opened = opened
        self._ackfile, self._state, self._log, self._last, self._tail, self._damaged = found
        self._next = (self._state.epoch << 32) + 1
        self._dropped = 0
        self._closed = False
        self._frozen = self._state.head.id  # holes up to this id may have been handed out: they stay as they are
        self._handed: deque[tuple[int, Point]] = deque()  # handed out and not acknowledged, with the chain up to there
        self._exhausted = (-1, -1)  # (after, last) for which there was nothing to read
        self._ages = Ages(now())
        self._aged_at_s = now().mono_s
        self._lock = threading.Lock()
        self._readable = threading.Condition(self._lock)
        self._reader = Reader(self._log, gap_message)
        self._syncer = Syncer(folder, self._log, self._ackfile, self._lock)
        self._syncer.written, self._syncer.acked = self._last, self._state.acked

    def put(self, message: OutboundMessage) -> int:
        """Accept a message and give it the next id. Thread-safe.

        Raises:
            OutboxError: it was not accepted: too large, chained but not a JSON object, no space even after the oldest
                segment was evicted, a failing disk, or the outbox is closed. It counts as dropped.
        """
        try:
            with self._lock:
                id_ = self._accept(message)
                self._readable.notify_all()
            if self._durability == "power":
                self._syncer.await_durable(id_)
        except OutboxError:
            with self._lock:
                self._dropped += 1
            raise
        if self.on_put:
            self.on_put()
        return id_

    def _accept(self, message: OutboundMessage) -> int:
        if self._closed:
            raise OutboxError("the outbox is closed")
        try:
            if not self._next & 0xFFFF_FFFF:  # the ids of an epoch are used up
                self._state = begin_epoch(self._folder, self._ackfile, self._state)
                self._next = (self._state.epoch << 32) + 1
            id_, before, at = self._next, self._tail, self._now()
            payload = splice(message.payload, id_, before.id) if message.in_chain else message.payload
            after = Point(id_, before.position + 1) if message.in_chain else before
            data = encode_record(id_, before, at, message, payload)
            while self._log.segments and self._log.bytes + len(data) > self._max_bytes:
                self._evict("max_bytes")
            self._append(data, id_, before, after, at)
        except OutboxError:
            raise
        except OSError as exc:
            raise self._error(exc) from exc
        self._last, self._next, self._tail = id_, id_ + 1, after
        self._syncer.written = id_
        self._trim()
        return id_

    def _append(self, data: bytes, id_: int, before: Point, after: Point, at: Instant) -> None:
        given_up, moved = 0, False
        while True:
            try:
                return self._log.append(data, id_, before, after, at)
            except OSError as exc:
                if exc.errno == errno.EIO and not moved:
                    self._log.close()  # perhaps only this place is bad: once more, in a file of its own
                    moved = True
                elif exc.errno in _FULL and given_up <= len(data) and (more := self._make_room()):
                    given_up += more
                else:
                    raise

    def _make_room(self) -> int:
        """On a full disk: give up what was sent, or else the oldest segment; so many bytes, 0 when there is neither."""
        if (sent := self._log.sent.clear()) or not self._log.segments:
            return sent
        size = self._log.segments[0].size
        self._evict("disk_full")
        return size

    def _error(self, exc: OSError) -> OutboxError:
        return OutboxError(f"outbox.dir: {self._folder}: {(exc.strerror or str(exc)).lower()}")

    def _evict(self, reason: Reason) -> None:
        """Give up the oldest segment. The hole is durable before the file goes."""
        segment, head, holes = self._log.segments[0], self._state.head, self._state.holes
        self._dropped += segment.pending(self._state.done)
        if segment.end.position > head.position:
            if holes and (head.id > self._frozen or len(holes) == MAX_HOLES):
                holes = (*holes[:-1], Hole(holes[-1].prev, segment.end, reason))
            else:
                holes = (*holes, Hole(head, segment.end, reason))
                log.warning("outbox.evicted", reason=reason, first=segment.first, last=segment.last)
            self._state = self._state._replace(holes=holes)
            self._ackfile.save(self._state)
            self._ackfile.sync()
        self._log.drop(segment)

    def next(self, after: int, max_count: int, max_bytes: int) -> list[StoredMessage]:
        """Messages with ids over `after`, in order; gaps stand in their places. For one thread.

        At most `max_count`, and no more once their payloads reach `max_bytes`. Nothing is removed: that does `ack`, for
        what was handed out up to here. A smaller `after` than before starts over from there.

        Raises:
            OutboxError: a file can't be opened, such as for too many open files, or a disk can't read it just now.
        """
        with self._lock:
            if self._closed:
                return []
            while self._handed and self._handed[-1][0] > after:
                self._handed.pop()
            room = _MAX_UNACKED - len(self._handed)
            try:
                handed = self._reader.read(self._state, self._tail, after, min(max_count, room), max_bytes)
            except OSError as exc:
                raise self._error(exc) from exc
            self._frozen = max([self._frozen, *(message.id for message, _ in handed)])
            if not handed and max_count > 0:
                self._exhausted = (after, self._last)
            self._handed.extend((message.id, point) for message, point in handed)
        return [message for message, _ in handed]

    def wait(self, after: int, timeout_s: float) -> bool:
        """Wait until there is something over `after` to read; false when there was nothing in time."""
        with self._lock:
            self._readable.wait_for(lambda: self._closed or self._has_more(after), timeout_s)
            return not self._closed and self._has_more(after)

    def _has_more(self, after: int) -> bool:
        return self._last > after and self._exhausted != (after, self._last)

    @property
    def acked(self) -> int:
        """Everything up to this id is done; a new connection reads from here."""
        return self._state.acked

    def ack(self, id_: int) -> None:
        """Everything up to `id_` is done. An id that was not handed out yet stands for the last that was."""
        with self._lock:
            acked, chain = self._state.acked, self._state.chain
            while self._handed and self._handed[0][0] <= id_:
                acked, chain = self._handed.popleft()
            if self._closed or acked == self._state.acked:
                return
            holes = tuple(hole for hole in self._state.holes if hole.to.id > acked)
            self._state = self._state._replace(acked=acked, chain=chain, holes=holes)
            self._ackfile.save(self._state)
            self._exhausted = (-1, -1)
            self._reader.forget(acked)
            self._trim()

    def _trim(self) -> None:
        self._syncer.acked = self._state.acked
        if self._log.trim(self._state.acked, self._now().mono_s):
            self._syncer.trimmed = True

    def sync_loop(self, stop: threading.Event) -> None:
        """The body of the thread that syncs, and drops what is too old."""
        self._syncer.loop(stop, at_once=self._durability == "power", each_tick=self._drop_aged)

    def _drop_aged(self) -> None:
        now = self._now()
        with self._lock:
            self._ages.look(now)
            if self._closed or now.mono_s - self._aged_at_s < min(10.0, self._max_age_s / _AGE_STEPS):
                return
            self._aged_at_s = now.mono_s
            ages = [self._ages.age_s(segment.newest, now) for segment in self._log.segments]
            for _ in range(max((i + 1 for i, age_s in enumerate(ages) if age_s > self._max_age_s), default=0)):
                self._evict("max_age")

    def stats(self) -> OutboxStats:
        """How it is now. Reads a file: not for every message."""
        with self._lock:
            now, done = self._now(), self._state.done
            waiting = [segment for segment in self._log.segments if segment.pending(done) > 0]
            pending = sum(segment.pending(done) for segment in waiting)
            age_s = 0.0
            if waiting:
                bounds = [self._ages.age_s(at, now) for at in (waiting[0].newest, waiting[0].oldest)]
                age_s = min(max(now.unix_s - accepted_after(waiting[0], done), bounds[0]), bounds[1])
            return OutboxStats(pending, self._log.bytes, self._dropped, self._damaged, age_s)

    def close(self) -> None:
        """Sync for the last time, and leave the folder to others. Again is harmless."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._readable.notify_all()
        self._syncer.sync()
        self._ackfile.sync()
        with self._lock:
            self._opened.close()
