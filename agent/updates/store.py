"""What lies on the device of one model, and which of it is to run: the record, and the bundles that it names.

Of the files, `agent.updates.folders` says what is where. The record is saved before anything that follows from it is
done, so a power cut at any instant leaves bundles that are whole and a floor that has not sunk.
"""

import hashlib
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import msgspec

from agent.errors import UpdateFailed
from agent.inference.locate import find_bundle
from agent.runtime.clock import rfc3339
from agent.updates.folders import CURRENT, INCOMING, PREVIOUS, Folders, make_dirs, make_slot, storage_errors
from agent.updates.record import Candidate, Record, Slot, load_record, save_record
from agent.wire.messages import Attempt
from agent.wire.releases import REASONS, Release

__all__ = ["Candidate", "ModelStore", "Record", "Slot"]

MAX_QUARANTINE = 256
MAX_HISTORY = 20


class ModelStore:
    """One model's bundles and record. Not thread-safe: it belongs to the updates thread."""

    def __init__(self, models_dir: Path, model: str) -> None:
        """Reads the record; writes nothing."""
        self.model = model
        self._home = models_dir / model
        self._folders = Folders(self._home)
        found = load_record(self._home)
        self._damaged, self._is_lost = found.damaged, found.record is None
        self.record = self._durable = found.record or Record()

    # --- the record ----------------------------------------------------------------------------------------------

    def save(self, **changes: Any) -> Record:
        """Change fields of the record; durable before it returns.

        Raises:
            UpdateFailed: it can't be written; the record is as before.
            ValueError: the floor would sink.
        """
        changed = msgspec.structs.replace(self.record, **changes)
        if changed.floor < self.record.floor:
            raise ValueError(f"the floor can't sink from {self.record.floor} to {changed.floor}")
        live, before = changed.live, changed.previous
        if live and before and live.folder == before.folder:  # the bytes that run came again, under a new number
            old = self.record.previous
            before = old if old and old.folder != live.folder else None
            changed = msgspec.structs.replace(changed, previous=before)
        self._write(changed)
        return self.record

    def _write(self, record: Record) -> None:
        record = msgspec.structs.replace(
            record,
            gen=record.gen + 1,
            quarantine=dict(list(record.quarantine.items())[-MAX_QUARANTINE:]),
            history=record.history[-MAX_HISTORY:],
        )
        with storage_errors("the record of its updates"):
            make_dirs(self._home)
            save_record(self._home, record)
        self.record = self._durable = record

    # --- looking -------------------------------------------------------------------------------------------------

    @property
    def incoming(self) -> Path:
        """Folder for what is being received, in files named after the archive's digest; made on use.

        Raises UpdateFailed.
        """
        folder = self._home / INCOMING
        with storage_errors(str(folder)):
            make_dirs(folder)
        return folder

    def part_of(self, sha256: str) -> Path:
        """Where the archive with this digest is received. Raises UpdateFailed."""
        return self.incoming / f"{sha256}.part"

    def folder(self, slot: Slot) -> Path:
        """Of a bundle."""
        return self._home / slot.folder

    def folder_by_hand(self) -> Path:
        """What `current` names, in whatever state it is. Raises ModelError: it names nothing."""
        return find_bundle(self._home.parent, self.model)

    def free_bytes(self) -> int:
        """Of the disk. Raises UpdateFailed."""
        with storage_errors("the free space"):
            status = os.statvfs(next(folder for folder in (self._home, *self._home.parents) if folder.is_dir()))
        return status.f_bavail * status.f_frsize

    def held_bytes(self, sha256: str) -> int:
        """Of the disk, by what was received of an archive: a part has room for all of it from its beginning."""
        try:
            return (self._home / INCOMING / f"{sha256}.part").stat().st_blocks * 512
        except OSError:
            return 0

    def is_whole(self, slot: Slot) -> bool:
        """All of it is there, byte for byte; reads the whole bundle."""
        return self._folders.is_whole(slot.folder, slot.sha256)

    def find(self, sha256: str) -> Slot | None:
        """A whole bundle with this digest; quick when there is none."""
        for slot in self.record.slots:
            if slot.sha256 == sha256 and self.is_whole(slot):
                return slot
        for name, mark in self._folders.marks().items():
            if mark and mark.sha256 == sha256:
                slot_there = self._folders.describe(name)
                if slot_there:
                    return slot_there
        return None

    def find_version(self, version: str) -> Slot | None:
        """A whole bundle of this version, or in a folder of this name; of two alike, the one that the record names."""
        for slot in self.record.slots:
            if version in (slot.version, slot.folder) and self.is_whole(slot):
                return slot
        return self._folders.describe(version)

    def signed_digest(self, slot: Slot) -> str | None:
        """Of the bundle that was signed: this one, or that which it was made of; None: by hand."""
        return slot.sha256 if slot.release else self._folders.made_of(slot.folder)

    def is_revoked(self, slot: Slot, revoked: Collection[str]) -> bool:
        """Also what was made of a revoked bundle is."""
        return slot.sha256 in revoked or self.signed_digest(slot) in revoked

    def wants_again(self, sha256: str) -> bool:
        """Whether bytes that were accepted before are gone, and nobody cares for them.

        The candidate's are cared for, whatever has become of it: where its bundle is lost, `start` begins it anew.
        """
        if self.record.candidate and self.record.candidate.sha256 == sha256:
            return False
        return not any(slot.sha256 == sha256 and self.is_whole(slot) for slot in self.record.slots)

    # --- changing ------------------------------------------------------------------------------------------------

    def install(self, part: Path, release: Release) -> Slot:
        """Make a bundle of a received archive. Bytes that lie here already are used as they are, without the part.

        The slot is the caller's to save. The part stays until `collect_garbage` finds that the record has the slot.

        Raises:
            UpdateRefused: `archive` or `bundle`: the signed bytes are no good.
            UpdateFailed: `digest`: the part has other bytes, and is deleted; or `no_space`, `storage`.
        """
        with storage_errors(f"release {release.release}"):
            found = self.find(release.archive.sha256)
            if found:
                return self._use_again(found, release)
            with part.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != release.archive.sha256:
                    part.unlink()
                    raise UpdateFailed("digest", f"{part.name} is not what was signed; it is fetched anew")
                file.seek(0)
                name = self._folders.unpack(file, release, [slot.folder for slot in self.record.slots])
        return make_slot(name, release)

    def _use_again(self, slot: Slot, release: Release) -> Slot:
        self._folders.check(slot.folder, release)
        if self._folders.is_marked(slot.folder):  # the floor is read there when the record is lost
            self._folders.mark(slot.folder, release)
        return make_slot(slot.folder, release)

    def mirror(self, running: Slot | None, before: Slot | None) -> None:
        """Let the files `current` and `previous` name what runs and what ran before; written only when different.

        Raises UpdateFailed.
        """
        with storage_errors(f"{CURRENT} and {PREVIOUS}"):
            self._folders.point(CURRENT, running.folder if running else None)
            self._folders.point(PREVIOUS, before.folder if before else None)

    def names_are_stale(self, running: Slot) -> bool:
        """`current` names what ran before a kill; somebody who is busy with a folder of his own is left alone."""
        name = self._folders.named_by(CURRENT)
        if name is None or name == running.folder:
            return name is None
        known = {slot.folder for slot in (self.record.live, self.record.previous) if slot}
        return name in known or self._folders.is_marked(name) or not (self._home / name).is_dir()

    def collect_garbage(self) -> None:
        """Delete what came with releases and is not needed any more. What can't be deleted now goes another time."""
        candidate = self.record.candidate
        is_awaited = candidate and not candidate.slot and not candidate.is_over
        needed = {slot.folder for record in (self.record, self._durable) for slot in record.slots}
        needed |= {name for name, mark in self._folders.marks().items() if mark and mark.release > self._durable.floor}
        self._folders.sweep(needed, candidate.sha256 if candidate and is_awaited else None)

    # --- at the daemon's start -----------------------------------------------------------------------------------

    def start(self) -> list[str]:
        """Mend what is broken, take over what was changed by hand, and clear up; gives a line for each repair.

        A disk that can't be written is no error: the record then holds for as long as the daemon runs.
        """
        lines = [f"{name} is damaged; the other one is used" for name in self._damaged]
        record = self.record
        if self._is_lost:
            if self._damaged or self._folders.marks():
                lines = ["the record of its updates is lost: made anew from what is there; nothing is quarantined now"]
            record = self._adopt_all(record, lines)
        else:
            record = self._take_over(record, lines)
        record = self._drop_broken(record, lines)
        record = self._lift_floor(record, lines)
        to_save = bool(self._damaged) or (record != self.record and bool(lines))
        self.record = record
        problem = self._save_both() if to_save else None
        self.collect_garbage()
        if problem:  # there may be space now
            problem = self._save_both()
            self.collect_garbage()
        return [*lines, f"not saved: {problem}"] if problem else lines

    def _save_both(self) -> str | None:
        """Twice: damage, or an older record, must not come back from the other file. Gives what went wrong."""
        try:
            self._write(self.record)
            self._write(self.record)
        except UpdateFailed as exc:
            return str(exc)
        return None

    def _adopt_all(self, record: Record, lines: list[str]) -> Record:
        """What `current` and `previous` name; not saved before something else is."""
        slots = []
        for file in (CURRENT, PREVIOUS):
            name = self._folders.named_by(file)
            slot = self._folders.describe(name) if name else None
            if name and not slot:
                lines.append(f"{file} names {name}, which is not a whole bundle")
            if slot:
                slots.append(slot)
        return msgspec.structs.replace(
            record, live=slots[0] if slots else None, previous=slots[1] if slots[1:] else None
        )

    def _take_over(self, record: Record, lines: list[str]) -> Record:
        """`current` names a folder that the record has never heard of: an operator did that, and it holds."""
        name = self._folders.named_by(CURRENT)
        candidate = record.candidate
        known = {slot.folder for slot in (record.live, record.previous, candidate and candidate.slot) if slot}
        if name is None or name in known or not self._folders.home.joinpath(name).is_dir():
            return record
        if self._folders.is_marked(name):  # of a release that is on its way, under a name that `current` still had
            return record
        slot = self._folders.describe(name)
        if slot is None or slot.sha256 in record.quarantine:
            lines.append(f"{CURRENT} names {name}, which is {'quarantined' if slot else 'not a whole bundle'}")
            return record
        lines.append(f"{CURRENT} was changed by hand: {name} is used")
        record = msgspec.structs.replace(record, live=slot, previous=record.live)
        return _end_by_hand(record, candidate) if candidate and candidate.state == "active" else record

    def _drop_broken(self, record: Record, lines: list[str]) -> Record:
        """Only whole bundles are run. A candidate that is not whole is fetched anew."""
        live, previous, candidate = record.live, record.previous, record.candidate
        if live and not self.is_whole(live):
            mended = self._mend_by_hand(live)
            lines.append(f"{live.folder} {'was changed by hand: it is used as it is' if mended else 'is damaged'}")
            live = mended
        if live is None and previous and self.is_whole(previous):
            lines.append(f"back to {previous.folder}, which ran before")
            live, previous = previous, None
        if previous and (live is None or not self.folder(previous).is_dir()):
            lines.append(f"{previous.folder}, which ran before, is gone or damaged")
            previous = None
        staged = candidate.slot if candidate and candidate.state in ("staged", "trial", "active") else None
        if candidate and staged and staged != live and not self.is_whole(staged):
            lines.append(f"{staged.folder} is damaged: release {candidate.release} is fetched anew")
            candidate = msgspec.structs.replace(candidate, state="offered", slot=None)
        return msgspec.structs.replace(record, live=live, previous=previous, candidate=candidate)

    def _mend_by_hand(self, slot: Slot) -> Slot | None:
        """Of a folder made by hand nobody signed the digest: what an operator edits in it holds."""
        return None if slot.release or self._folders.is_marked(slot.folder) else self._folders.describe(slot.folder)

    def _lift_floor(self, record: Record, lines: list[str]) -> Record:
        """Not below what was accepted to all that can be seen."""
        named = [(slot.release or 0, slot.sha256) for slot in record.slots]
        marked = [(mark.release, mark.sha256) for mark in self._folders.marks().values() if mark]
        floor, sha256 = max([*named, *marked], default=(0, ""))
        if floor <= record.floor:
            return record
        lines.append(f"the floor is {floor} again, as the bundles say; the record said {record.floor}")
        return msgspec.structs.replace(record, floor=floor, floor_sha256=sha256)


def _end_by_hand(record: Record, candidate: Candidate) -> Record:
    reason = REASONS["operator"]
    ended = msgspec.structs.replace(candidate, state="rolled_back", reason_code="operator", reason=reason)
    attempt = Attempt(
        release=candidate.release,
        version=candidate.version,
        sha256=candidate.sha256,
        state="rolled_back",
        ended_at=rfc3339(time.time_ns()),
        reason_code="operator",
        reason=reason,
    )
    return msgspec.structs.replace(record, candidate=ended, history=(*record.history, attempt))
