"""The chain: every JSON message names itself (`seq`) and the one before it (`prev`), and what is gone leaves a gap."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from agent.errors import OutboxError

Reason = Literal["max_bytes", "max_age", "disk_full", "damaged"]


class Point(NamedTuple):
    """A place in the chain."""

    id: int = 0
    """Of the last chained message up to here; 0 when there was none ever."""
    position: int = 0
    """How many chained messages there were up to here. Stays on the device; differences of it are exact counts."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Chained messages that were accepted and will never be sent: all those with ids `from_` to `to`."""

    from_: int
    """The id behind the last chained message before the gap."""
    to: int
    """Id of the last one that is gone; the `seq` of the message that announces the gap."""
    count: int
    reason: Reason


class Hole(NamedTuple):
    """A gap by its place in the chain."""

    prev: Point
    """The last chained message before it."""
    to: Point
    """The last one that is gone."""
    reason: Reason

    def gap(self) -> Gap:
        return Gap(self.prev.id + 1, self.to.id, self.to.position - self.prev.position, self.reason)


def splice(payload: bytes, seq: int, prev: int) -> bytes:
    """Write `seq` and `prev` into a JSON object, as its last members.

    Raises:
        OutboxError: the payload does not end as a JSON object does.
    """
    if not payload.endswith(b"}"):
        raise OutboxError("a chained message must be a JSON object")
    comma = b"" if payload == b"{}" else b","
    return b'%b%b"seq":%d,"prev":%d}' % (payload[:-1], comma, seq, prev)
