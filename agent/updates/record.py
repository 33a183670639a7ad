"""What a device remembers of a model's updates: one sealed record, in two files that are written in turn.

Each write makes a whole new file before the old name points to it, and the other file keeps the record before: a power
cut leaves the last record that was saved, damage to one file the one before it.
"""

import contextlib
import hashlib
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.runtime.files import write_atomic
from agent.wire.messages import Attempt
from agent.wire.releases import State

MAX_RECORD_BYTES = 1 << 20
"""An envelope of 64 KiB, 256 quarantined digests and 20 attempts take less than a quarter of it."""

_NAMES = (".state.a", ".state.b")
_SEAL_BYTES = 64


class Slot(msgspec.Struct, frozen=True):
    """A bundle that lies on the device."""

    folder: str
    """Its name below the model's folder."""
    version: str
    sha256: str
    """Of its archive."""
    activated_at: str
    """RFC 3339 UTC with milliseconds; of one that never ran, when it was installed."""
    release: int | None = None
    """None: it was put there by hand."""


class Candidate(msgspec.Struct, frozen=True):
    """The release that was accepted last, and how far it has got."""

    envelope: bytes
    release: int
    version: str
    sha256: str
    size_bytes: int
    state: State
    reason_code: str | None = None
    reason: str | None = None
    tries: int = 0
    failures: int = 0
    slot: Slot | None = None
    """Where it lies, once it is unpacked."""
    before_ms: dict[str, float] = {}
    """Median inference time of what answered before it, by pipeline."""

    @property
    def is_over(self) -> bool:
        """It will not be tried again."""
        return self.state in ("rejected", "rolled_back")


class Record(msgspec.Struct, frozen=True):
    """All of it. What is not here is lost in a power cut."""

    gen: int = 0
    """Counts saves."""
    live: Slot | None = None
    """Runs, and has proved itself."""
    previous: Slot | None = None
    """Ran before it."""
    candidate: Candidate | None = None
    floor: int = 0
    """The highest release number that was accepted."""
    floor_sha256: str = ""
    """The bytes that came with it."""
    time_floor: str = "1970-01-01T00:00:00Z"
    """It is at least this late: RFC 3339 UTC in whole seconds."""
    quarantine: dict[str, str] = {}
    """Digests of bytes that failed here, with the reason code; oldest first."""
    history: tuple[Attempt, ...] = ()
    """Oldest first."""
    pinned: bool = False
    seen: str = ""
    """sha256 of the last release message that was taken."""

    @property
    def slots(self) -> tuple[Slot, ...]:
        """All bundles that it still needs."""
        staged = self.candidate.slot if self.candidate and not self.candidate.is_over else None
        return tuple(slot for slot in (self.live, self.previous, staged) if slot)


class Found(NamedTuple):
    """What `load_record` came upon."""

    record: Record | None
    damaged: tuple[str, ...]
    """Names of files that are there and can't be used."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Record).decode


def load_record(home: Path) -> Found:
    """The newest whole record in a model's folder."""
    records, damaged = [], []
    for name in _NAMES:
        try:
            with (home / name).open("rb") as file:
                data = file.read(MAX_RECORD_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            data = b""
        record = _unseal(data)
        if record is None:
            damaged.append(name)
        else:
            records.append(record)
    return Found(max(records, key=lambda record: record.gen, default=None), tuple(damaged))


def save_record(home: Path, record: Record) -> None:
    """Write it durably over the older of the two.

    Raises:
        OSError: it can't be written; the record before is still there.
    """
    body = _encode(record)
    write_atomic(home / _NAMES[record.gen % 2], body + b"\n" + hashlib.sha256(body).hexdigest().encode())


def _unseal(data: bytes) -> Record | None:
    body, seal = data[: -_SEAL_BYTES - 1], data[-_SEAL_BYTES:]
    if hashlib.sha256(body).hexdigest().encode() == seal:
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # of another version
            return _decode(body)
    return None
