"""One message on disk: head, header (topic and properties), payload; little-endian.

    magic 4 | length 4 | CRC-32 4 | id 8 | accepted-at 8 | chain before it: id 8, position 8 | flags 1 | header length 2

`length` counts what follows the head; the CRC covers everything behind itself.
"""

import struct
import zlib
from typing import NamedTuple

import msgspec

from agent.errors import OutboxError
from agent.outbox.ages import Instant
from agent.outbox.chain import Point
from agent.values import OutboundMessage

MAX_MESSAGE_BYTES = 1 << 20
"""Header and payload together."""

_MAGIC = b"\xf5EO1"  # 0xF5 does not occur in UTF-8: no JSON payload looks like a record
_HEAD = struct.Struct("<4sIIQQQQBH")
_CRC_FROM = 12
_MAX_HEADER_BYTES = 0xFFFF
_CHAINED, _RETAIN, _SYNCED = 1, 2, 4

_encode_header = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(tuple[str, str, tuple[tuple[str, str], ...]]).decode


class StoredMessage(NamedTuple):
    """A message as the reader gets it: the bytes that go out."""

    id: int
    topic: str
    payload: bytes
    retain: bool
    content_type: str
    user_properties: tuple[tuple[str, str], ...]
    in_chain: bool
    """It carries `seq`, which is its id."""


class Record(NamedTuple):
    """A message as it lies in a segment."""

    id: int
    accepted_unix_s: float
    flags: int
    before: Point
    """The chain up to this record, without it."""
    header: bytes
    payload: bytes

    @property
    def after(self) -> Point:
        """The chain up to and with this record."""
        return Point(self.id, self.before.position + 1) if self.flags & _CHAINED else self.before

    @property
    def synced(self) -> bool:
        """The wall clock could be trusted when it was accepted."""
        return bool(self.flags & _SYNCED)

    def message(self) -> StoredMessage:
        """Raises msgspec.DecodeError when the header is not of this version."""
        try:
            topic, content_type, user_properties = _decode_header(self.header)
        except UnicodeDecodeError as exc:
            raise msgspec.DecodeError(str(exc)) from exc
        retain, in_chain = bool(self.flags & _RETAIN), bool(self.flags & _CHAINED)
        return StoredMessage(self.id, topic, self.payload, retain, content_type, user_properties, in_chain)


def encode_record(id_: int, before: Point, at: Instant, message: OutboundMessage, payload: bytes) -> bytes:
    """The bytes of a record; `payload` is what goes out, `message` says the rest.

    Raises:
        OutboxError: it is too large.
    """
    header = _encode_header((message.topic, message.content_type, message.user_properties))
    length = len(header) + len(payload)
    if length > MAX_MESSAGE_BYTES or len(header) > _MAX_HEADER_BYTES:
        raise OutboxError(f"{message.topic}: {length} bytes are over the limit of {MAX_MESSAGE_BYTES} for a message")
    flags = _CHAINED * message.in_chain | _RETAIN * message.retain | _SYNCED * at.synced
    fields = (id_, max(0, int(at.unix_s * 1000)), *before, flags, len(header))
    head = _HEAD.pack(_MAGIC, length, 0, *fields)
    crc = zlib.crc32(payload, zlib.crc32(header, zlib.crc32(head[_CRC_FROM:])))
    return _HEAD.pack(_MAGIC, length, crc, *fields) + header + payload


def find_record(data: bytes, start: int) -> tuple[Record, int, int] | None:
    """The first intact record at `start` or behind it, where it begins and where it ends; damage is skipped."""
    at = start
    while 0 <= at <= len(data) - _HEAD.size:
        magic, length, crc, id_, accepted_ms, prev, position, flags, header_bytes = _HEAD.unpack_from(data, at)
        end = at + _HEAD.size + length
        plausible = magic == _MAGIC and header_bytes <= length and end <= len(data)
        if plausible and zlib.crc32(data[at + _CRC_FROM : end]) == crc:
            cut = at + _HEAD.size + header_bytes
            before = Point(prev, position)
            return (
                Record(id_, accepted_ms / 1000, flags, before, data[cut - header_bytes : cut], data[cut:end]),
                at,
                end,
            )
        at = data.find(_MAGIC, at + 1)
    return None
