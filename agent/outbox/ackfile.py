"""What must be remembered beside the messages: two checksummed slots of a file that is allocated once.

Overwriting a slot needs no new space, so acknowledging and evicting work on a full disk. Slots are written in turn:
a torn write leaves the other one. A lost write costs duplicates, never messages.
"""

import contextlib
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.outbox.chain import Hole, Point

MAX_HOLES = 6
"""As many gaps are kept apart; more become one with the last. They fit a slot, with the largest numbers."""

_SLOT_BYTES = 512
_FILE_BYTES = 2 * _SLOT_BYTES
_HEAD = struct.Struct("<II")  # CRC-32 of what follows, its length


class AckState(NamedTuple):
    """Everything that a slot holds."""

    epoch: int = 0
    acked: int = 0
    """All messages up to this id are done."""
    chain: Point = Point()
    """The chain up to there."""
    holes: tuple[Hole, ...] = ()
    """Evicted and not yet announced, oldest first. All of them lie behind `acked` and before what is stored."""

    @property
    def head(self) -> Point:
        """The chain before the stored messages."""
        return self.holes[-1].to if self.holes else self.chain

    @property
    def done(self) -> int:
        """No message up to this id is wanted any more."""
        return max(self.acked, self.head.id)


_decode = msgspec.msgpack.Decoder(tuple[int, AckState]).decode


def _unpack(slot: bytes) -> list[tuple[int, AckState]]:
    """Generation and state; nothing when the slot was never written, or is torn or damaged."""
    crc, length = _HEAD.unpack_from(slot)
    data = slot[_HEAD.size : _HEAD.size + length]
    if not length or zlib.crc32(data) != crc:
        return []
    with contextlib.suppress(msgspec.DecodeError):  # of another version
        return [_decode(data)]
    return []


class AckFile:
    """The file. `state` is what it last said; None when it is new or can't be read."""

    def __init__(self, path: Path) -> None:
        """Open it, or allocate it.

        Raises:
            OSError: it can't be opened, or there is no space for a new one.
        """
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            data = os.pread(self._fd, _FILE_BYTES, 0)
            if len(data) < _FILE_BYTES:
                os.pwrite(self._fd, bytes(_FILE_BYTES), 0)
                os.fsync(self._fd)
        except OSError:
            os.close(self._fd)
            raise
        data = data.ljust(_FILE_BYTES, b"\0")
        slots = _unpack(data[:_SLOT_BYTES]) + _unpack(data[_SLOT_BYTES:])
        self._generation = max((generation for generation, _ in slots), default=0)
        self.state: AckState | None = max(slots)[1] if slots else None
        self.damaged = not slots and any(data)

    def save(self, state: AckState) -> bool:
        """Write the older slot; false when the disk refuses."""
        self._generation += 1
        data = msgspec.msgpack.encode((self._generation, state))
        slot = (_HEAD.pack(zlib.crc32(data), len(data)) + data).ljust(_SLOT_BYTES, b"\0")
        try:
            return os.pwrite(self._fd, slot, self._generation % 2 * _SLOT_BYTES) == _SLOT_BYTES
        except OSError:
            return False

    def sync(self) -> bool:
        """Make it durable; false when the disk refuses."""
        try:
            os.fdatasync(self._fd)
        except OSError:
            return False
        return True

    def close(self) -> None:
        os.close(self._fd)
