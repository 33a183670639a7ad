"""What a collector takes from the broker: numbered messages and pictures, checked."""

import re
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from tools.collect_link import Arrived

MAX_BYTES = 1 << 20
"""As large as an outbox takes."""
STREAMS = ("results/+", "events/+", "models/+", "gap", "snapshots/+")
"""What devices send through their outbox, below devices/{id}."""
GAP = "edge.gap/"

_Seq = Annotated[int, Meta(ge=0, lt=2**53)]
_DEVICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TEXT_BYTES = 256
_SHOWN_CHARS = 128


class BadMessage(Exception):  # noqa: N818 - it says what the message is
    """A message that no device sends; one line that says why."""


class _Head(msgspec.Struct):
    """What every numbered message has."""

    schema: Annotated[str, Meta(max_length=_TEXT_BYTES)]
    device: str
    time: Annotated[str, Meta(max_length=_TEXT_BYTES)]
    seq: _Seq
    prev: _Seq


class GapBody(msgspec.Struct):
    """What a gap message tells besides its place."""

    count: _Seq
    reason: Annotated[str, Meta(max_length=_TEXT_BYTES)]


@dataclass(frozen=True)
class Numbered:
    """A message of the chain."""

    device: str
    seq: int
    prev: int
    """It says that there is nothing between `prev` and `seq`."""
    topic: str
    kind: str
    """Its schema."""
    time: str
    """When the device made it, as it says."""
    payload: str
    repeated: bool
    """By the broker, not by the device."""

    @property
    def is_gap(self) -> bool:
        return self.kind.startswith(GAP)

    @property
    def jumps(self) -> bool:
        """`prev` may lie before what a reader has: a gap may claim more than is missing, and after a power cut a device
        goes on from what it still has."""
        return self.is_gap or self.seq >> 32 != self.prev >> 32


@dataclass(frozen=True)
class Picture:
    """A snapshot. It has no number."""

    device: str
    topic: str
    event_id: str
    captured_at: str
    jpeg: bytes


_decode = msgspec.json.Decoder(_Head).decode
_decode_gap = msgspec.json.Decoder(GapBody).decode


def parse(arrived: Arrived, prefix: str) -> Numbered | Picture:
    """Check what came.

    Raises:
        BadMessage: it is no message of a device.
    """
    device, _, stream = arrived.topic.removeprefix(f"{prefix}/devices/").partition("/")
    where = ascii(arrived.topic)[1:-1][:_SHOWN_CHARS]
    if not _DEVICE.fullmatch(device) or len(arrived.payload) > MAX_BYTES:
        raise BadMessage(f"{len(arrived.payload)} bytes on {where}")
    if stream.startswith("snapshots/"):
        tell = arrived.properties.get
        event_id, captured_at = tell("event_id", ""), tell("captured_at", "")
        if not event_id or "\0" in event_id + captured_at or len(event_id + captured_at) > _TEXT_BYTES:
            raise BadMessage(f"{where}: expected the user properties event_id and captured_at")
        return Picture(device, arrived.topic, event_id, captured_at, arrived.payload)
    try:
        head = _decode(arrived.payload)
        if head.schema.startswith(GAP):
            _decode_gap(arrived.payload)
        text = arrived.payload.decode()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise BadMessage(f"{where}: {exc}") from exc
    if head.device != device or not head.prev < head.seq:
        raise BadMessage(f"{where}: device {head.device[:_SHOWN_CHARS]!r}, seq {head.seq}, prev {head.prev}")
    if "\0" in head.schema + head.time:
        raise BadMessage(f"{where}: a zero byte in its schema or time")
    return Numbered(device, head.seq, head.prev, arrived.topic, head.schema, head.time, text, arrived.repeated)
