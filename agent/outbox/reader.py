"""Reads stored messages in order, and tells what is missing between them."""

import errno
import time
from collections.abc import Callable, Iterator

import msgspec

from agent.outbox.ackfile import AckState
from agent.outbox.chain import Gap, Hole, Point, splice
from agent.outbox.record import Record, StoredMessage, find_record
from agent.outbox.segment import Segment, SegmentLog, read_range
from agent.values import OutboundMessage

_GIVE_UP_S = 30.0
"""What a disk can't read for so long counts as damage. A bus that resets, or a cable, is well again before."""

Handed = tuple[StoredMessage, Point]
"""A message for the caller, and the chain up to and with it."""


class Reader:
    """Remembers where it was: each byte is read once as long as the caller goes forward. The owner locks."""

    def __init__(
        self,
        log: SegmentLog,
        gap_message: Callable[[Gap], OutboundMessage],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._gap_message = gap_message
        self._now_s = now_s
        self._failing_since_s: float | None = None
        self._gaps: dict[int, StoredMessage] = {}  # those handed out, so that a repetition is the same bytes
        self._after = -1  # the cursor: behind this id,
        self._point = Point()  # at this place of the chain,
        self._first = -1  # in this segment,
        self._loaded = 0  # of which so much was read,
        self._data = b""  # lastly these bytes,
        self._at = 0  # of which so many were looked at

    def read(self, state: AckState, tail: Point, after: int, max_count: int, max_bytes: int) -> list[Handed]:
        """Messages behind `after`, as `Outbox.next`; `tail` is the chain up to the last accepted message.

        Raises:
            OSError: a file can't be opened, or not be read yet.
        """
        handed: list[Handed] = []
        size = 0
        try:
            for message, point in self._messages(state, tail, after) if max_count > 0 else ():
                self._after = message.id
                handed.append((message, point))
                size += len(message.payload)
                if len(handed) >= max_count or size >= max_bytes:
                    break
        except OSError:
            if not handed:
                raise
        return handed

    def forget(self, acked: int) -> None:
        """Gaps up to `acked` will not be asked for again."""
        self._gaps = {id_: message for id_, message in self._gaps.items() if id_ > acked}

    def _messages(self, state: AckState, tail: Point, after: int) -> Iterator[Handed]:
        floor = max(after, state.done)
        if floor != self._after:
            self._after, self._point, self._first = floor, state.head, -1
        for hole in state.holes:
            if hole.to.id > after:
                yield self._announce(hole)
        for record, end in self._records():
            if record.before.position > self._point.position:
                yield from self._miss(record.before, floor)
            self._at = end
            try:
                message = record.message()
            except msgspec.DecodeError:
                continue  # as if it were not there
            self._point = record.after
            if record.id > floor:
                yield message, self._point
        if tail.position > self._point.position:
            yield from self._miss(tail, floor)

    def _records(self) -> Iterator[tuple[Record, int]]:
        """Whole records from the cursor on, and where they end; the caller moves the cursor there."""
        for segment in self._log.segments:
            if segment.first > self._first:
                self._first, self._loaded, self._data, self._at = segment.first, 0, b"", 0
            while segment.first == self._first and (found := self._find(segment)):
                record, self._at, end = found
                yield record, end

    def _find(self, segment: Segment) -> tuple[Record, int, int] | None:
        """The next record; reads on when there is none in what was read: segments grow by whole records."""
        found = find_record(self._data, self._at)
        if not found and segment.size > self._loaded:
            self._data = self._load(segment)
            self._loaded, self._at = segment.size, 0
            found = find_record(self._data, 0)
        return found

    def _load(self, segment: Segment) -> bytes:
        """What is in it behind what was read. Raises OSError: it can't be read yet."""
        since_s = self._failing_since_s
        strict = since_s is None or self._now_s() - since_s < _GIVE_UP_S
        try:
            data = read_range(segment.path, self._loaded, segment.size - self._loaded, strict=strict)
        except OSError as exc:
            if exc.errno == errno.EIO and since_s is None:
                self._failing_since_s = self._now_s()
            raise
        self._failing_since_s = None
        return data

    def _miss(self, to: Point, floor: int) -> Iterator[Handed]:
        """Chained messages between the cursor and `to` can't be read."""
        gap = self._announce(Hole(self._point, to, "damaged")) if to.id > floor else None
        self._point = to
        if gap:
            yield gap

    def _announce(self, hole: Hole) -> Handed:
        id_ = hole.to.id
        if id_ not in self._gaps:
            message = self._gap_message(hole.gap())
            payload = splice(message.payload, id_, hole.prev.id)
            rest = message.retain, message.content_type, message.user_properties
            self._gaps[id_] = StoredMessage(id_, message.topic, payload, *rest, in_chain=True)
        return self._gaps[id_], hole.to
