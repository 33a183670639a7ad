"""An outbox to test with, and a reader that proves what comes out of it."""

import itertools
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agent.outbox.ages import Instant
from agent.outbox.chain import Gap
from agent.outbox.record import StoredMessage
from agent.outbox.store import Outbox, open_outbox
from agent.values import OutboundMessage

DAY_S = 86400.0


_made = itertools.count()


def gap_message(gap: Gap) -> OutboundMessage:
    """As the daemon makes it: no two calls give the same bytes, for the time is in them."""
    fields = {"schema": "edge.gap/1", "from": gap.from_, "to": gap.to, "count": gap.count, "reason": gap.reason}
    return OutboundMessage("gaps", json.dumps({"time": next(_made), **fields}).encode())


def open_box(folder: Path, **options: Any) -> Outbox:
    """With generous bounds unless said otherwise."""
    defaults = {"max_bytes": 64 << 20, "max_age_s": 7 * DAY_S, "durability": "balanced", "gap_message": gap_message}
    return open_outbox(folder, **{**defaults, **options})


def message(text: str = "", *, size: int = 0) -> OutboundMessage:
    """A chained message with a text, padded by `size` characters."""
    return OutboundMessage("results", json.dumps({"text": text, "pad": "x" * size}).encode())


def snapshot(data: bytes = b"\xff\xd8jpeg") -> OutboundMessage:
    """A message that takes an id but is not in the chain."""
    return OutboundMessage("snapshots", data, in_chain=False, content_type="image/jpeg")


def fields(stored: StoredMessage) -> dict[str, Any]:
    return dict(json.loads(stored.payload))


def told(stored: StoredMessage) -> dict[str, Any]:
    """Without the time of a gap: that is another one after a restart."""
    return {key: value for key, value in fields(stored).items() if key != "time"}


def is_gap(stored: StoredMessage) -> bool:
    return stored.topic == "gaps"


def read_all(box: Outbox, after: int | None = None, *, at_a_time: int = 100) -> list[StoredMessage]:
    """Everything from the watermark, or from `after`, in batches."""
    found: list[StoredMessage] = []
    at = box.acked if after is None else after
    while batch := box.next(at, at_a_time, 1 << 30):
        found += batch
        at = batch[-1].id
    return found


def texts(messages: Iterable[StoredMessage]) -> list[str]:
    """Texts of messages; gaps as `gap count reason`."""
    return [
        f"gap {fields(m)['count']} {fields(m)['reason']}" if is_gap(m) else str(fields(m)["text"]) for m in messages
    ]


def assert_chain(messages: Iterable[StoredMessage], prev: int = 0) -> int:
    """Ids rise; each chained message names itself and the one before it; a gap begins behind that one.

    Returns the last `seq`.
    """
    last = 0
    for stored in messages:
        assert last < stored.id
        last = stored.id
        if stored.topic == "snapshots":
            continue
        found = fields(stored)
        assert (stored.id, prev) == (found["seq"], found["prev"])
        if is_gap(stored):
            assert (prev + 1, stored.id) == (found["from"], found["to"])
        prev = stored.id
    return prev


class Clocks:
    """Clocks that tests set."""

    def __init__(self, unix_s: float = 1_800_000_000.0, *, synced: bool = True) -> None:
        self.mono_s = 1000.0
        self.unix_s = unix_s
        self.synced = synced

    def __call__(self) -> Instant:
        return Instant(self.mono_s, self.unix_s, self.synced)

    def run(self, seconds: float) -> None:
        """Time goes by."""
        self.mono_s += seconds
        self.unix_s += seconds

    def restart(self) -> None:
        """Another boot: the monotonic clock begins again."""
        self.mono_s = 10.0
