"""The kept frames of one pipeline: a folder under a bound, two files a sample, whole after any power cut.

`{id}.png` (or .jpg, .npy) is written first, then `{id}.json`; a file without the other is swept at the next start.
"""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.runtime.files import write_atomic
from agent.wire.messages import SamplesTelemetry
from agent.wire.samples import SampleInfo

_OURS = re.compile(r"\.?(?P<id>[0-9a-f]{16})\.(?:png|jpg|npy|json)(?P<temporary>\.[0-9]+\.tmp)?")
"""What files of this folder are called, also while they are written."""
BLOCK_BYTES = 4096
"""A file takes whole blocks of the disk, so that is what counts."""


class Note(SampleInfo, frozen=True, kw_only=True):
    """What lies beside the file."""

    is_sent: bool = False


@dataclass(slots=True)
class _Kept:
    note: Note
    size_bytes: int

    @property
    def worth(self) -> tuple[bool, bool]:
        """The least goes first: labels are somebody's work, and what was sent is safe elsewhere."""
        return (self.note.label is not None or self.note.is_right is not None, not self.note.is_sent)


class SampleStore:
    """For one thread, except `telemetry`."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Reads what is there. A folder that can't be read is as an empty one; the first `put` tells."""
        self._folder, self._max_bytes = folder, max_bytes
        self._kept: dict[str, _Kept] = {}
        self._bytes = 0
        self.dropped = 0
        with contextlib.suppress(OSError):
            self._load()
        self._make_room(0)  # the bound may have been larger

    def _load(self) -> None:
        notes = []
        for path in sorted(self._folder.glob("*.json")):
            with contextlib.suppress(msgspec.MsgspecError, OSError):
                note = msgspec.json.decode(path.read_bytes(), type=Note)
                if path.stem == note.id and self._file(note).is_file():
                    notes.append(note)
        for note in sorted(notes, key=lambda note: note.captured_at):
            self._count(_Kept(note, self._size_of(note)))
        mine = {note.id for note in notes}
        for path in self._folder.iterdir():
            name = _OURS.fullmatch(path.name)  # what else lies there is somebody's: not ours to take away
            if name and (name["temporary"] or name["id"] not in mine):  # half of a sample, or a temporary file
                path.unlink(missing_ok=True)

    def put(self, note: Note, data: bytes) -> bool:
        """Keep a frame; what is over the bound goes. False: it alone is larger than that.

        Raises:
            OSError: it can't be stored; nothing of it stays.
        """
        text = msgspec.json.encode(note)
        size = _on_disk(len(data)) + _on_disk(len(text))
        if size > self._max_bytes:
            self.dropped += 1
            return False
        self._make_room(size)
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o750)
            write_atomic(self._file(note), data)
            write_atomic(self._beside(note), text)
        except OSError:
            self.dropped += 1
            with contextlib.suppress(OSError):
                self._file(note).unlink(missing_ok=True)
            raise
        self._count(_Kept(note, size))
        return True

    def change(self, sample_id: str, **changes: object) -> Note:
        """Note something of a sample.

        Raises:
            KeyError: there is no such sample.
            OSError: it can't be written.
        """
        kept = self._kept[sample_id]
        note = msgspec.structs.replace(kept.note, **changes)
        write_atomic(self._beside(note), msgspec.json.encode(note))
        kept.note = note
        return note

    def unsent(self) -> list[Note]:
        """With a label first, then the newest."""
        waiting = [kept for kept in reversed(self._kept.values()) if not kept.note.is_sent]
        return [kept.note for kept in sorted(waiting, key=lambda kept: not kept.worth[0])]

    def labelled(self) -> Iterator[tuple[Note, str]]:
        """Samples of which the operator said what they show, and what; the oldest first."""
        for kept in self._kept.values():
            if kept.note.truth is not None:
                yield kept.note, kept.note.truth

    def read(self, note: Note) -> bytes:
        """The file. Raises OSError."""
        return self._file(note).read_bytes()

    def forget(self, note: Note) -> None:
        """Its file is lost; what is left of it goes too, and it counts as dropped."""
        self._drop(self._kept[note.id])

    def telemetry(self) -> SamplesTelemetry:
        """May be called from any thread."""
        kept = list(self._kept.copy().values())
        return SamplesTelemetry(
            kept=len(kept),
            bytes=self._bytes,
            waiting=sum(not one.note.is_sent for one in kept),
            labelled=sum(one.worth[0] for one in kept),
            dropped=self.dropped,
        )

    def _make_room(self, size_bytes: int) -> None:
        if self._bytes + size_bytes <= self._max_bytes:
            return
        for kept in sorted(self._kept.values(), key=lambda kept: kept.worth):  # stable: the oldest of each worth first
            self._drop(kept)
            if self._bytes + size_bytes <= self._max_bytes:
                return

    def _drop(self, kept: _Kept) -> None:
        with contextlib.suppress(OSError):
            self._beside(kept.note).unlink(missing_ok=True)
            self._file(kept.note).unlink(missing_ok=True)
        del self._kept[kept.note.id]
        self._bytes -= kept.size_bytes
        self.dropped += not kept.note.is_sent

    def _count(self, kept: _Kept) -> None:
        before = self._kept.pop(kept.note.id, None)
        self._bytes += kept.size_bytes - (before.size_bytes if before else 0)
        self._kept[kept.note.id] = kept

    def _size_of(self, note: Note) -> int:
        return sum(_on_disk(path.stat().st_size) for path in (self._file(note), self._beside(note)))

    def _file(self, note: SampleInfo) -> Path:
        return self._folder / f"{note.id}{note.suffix}"

    def _beside(self, note: SampleInfo) -> Path:
        return self._folder / f"{note.id}.json"


def _on_disk(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES
