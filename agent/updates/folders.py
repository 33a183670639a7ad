"""The bundle folders of one model on disk: look at them, make them, delete them. What is to run is not decided here.

    {models_dir}/{model}/
      .state.a .state.b      the record (`agent.updates.record`): the truth, where it exists
      current  previous      name the folders that run and ran before, for people and other programs
      {version}/             a bundle; one that came with a release has a file `.release` in it; one that was made of it
                             on the device has the file `.made-of`: the digest of what was signed
      .incoming/             what is being received: {sha256 of the archive}.part, and what belongs to it
      .new-*  .gone-*        a folder that is being made, or deleted; no use after a restart

A folder without `.release` was put there by hand and is never deleted.
"""

import contextlib
import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from agent.errors import ModelError, UpdateFailed, UpdateRefused
from agent.manifest import VERSION_PATTERN, Manifest, load_manifest
from agent.runtime.clock import rfc3339
from agent.runtime.files import fsync_dir, write_atomic
from agent.updates.record import Slot
from agent.wire.archive import GOLDEN, LABELS, MANIFEST, MODEL, ArchiveError, archive_digest, extract_archive
from agent.wire.releases import Release

CURRENT, PREVIOUS = "current", "previous"
INCOMING = ".incoming"

NEW, _GONE = ".new-", ".gone-"
_MARK = ".release"
MADE_OF = ".made-of"
_MAX_NAME_CHARS = 63  # of VERSION_PATTERN


class Mark(msgspec.Struct, frozen=True):
    """`.release` in a folder: which release brought it last."""

    release: int
    sha256: str


_decode_mark = msgspec.json.Decoder(Mark).decode


@contextlib.contextmanager
def storage_errors(what: str) -> Iterator[None]:
    """What the disk refuses is an UpdateFailed, `no_space` or `storage`."""
    try:
        yield
    except UpdateFailed:
        raise
    except OSError as exc:
        code = "no_space" if exc.errno in (errno.ENOSPC, errno.EDQUOT) else "storage"
        raise UpdateFailed(code, f"{what}: {(exc.strerror or str(exc)).lower()}") from exc


def make_dirs(folder: Path) -> None:
    """Make a folder and those above it, durably. Raises OSError."""
    if not folder.is_dir():
        make_dirs(folder.parent)
        folder.mkdir(mode=0o750, exist_ok=True)
        fsync_dir(folder.parent)


def make_slot(name: str, release: Release) -> Slot:
    """Of a bundle that a release brought just now."""
    return Slot(name, release.version, release.archive.sha256, rfc3339(time.time_ns()), release.release)


class Folders:
    """One model's home. It may be missing: then nothing is there."""

    def __init__(self, home: Path) -> None:
        self.home = home

    # --- looking -------------------------------------------------------------------------------------------------

    def is_whole(self, name: str, sha256: str) -> bool:
        """All of it is there, byte for byte; reads the whole bundle."""
        try:
            return archive_digest(self.home / name) == sha256
        except (ValueError, OSError):
            return False

    def is_marked(self, name: str) -> bool:
        """A release brought it."""
        folder = self.home / name
        return folder.is_dir() and not folder.is_symlink() and os.path.lexists(folder / _MARK)

    def marks(self) -> dict[str, Mark | None]:
        """By name, all folders that releases brought; None: its mark can't be read."""
        return {name: self._mark(name) for name in self._names() if name[0] != "." and self.is_marked(name)}

    def describe(self, name: str) -> Slot | None:
        """A bundle that the record does not know, as it lies there; None: it is none, or not whole.

        Whoever can put a bundle there by hand is believed; one with a mark has to be what its mark says.
        """
        try:
            if not re.fullmatch(VERSION_PATTERN, name):
                return None
            manifest = load_manifest(self.home / name / MANIFEST)
            sha256 = archive_digest(self.home / name)
            # what a power cut makes of a file that was copied a moment ago
            is_empty = (self.home / name / MODEL).stat().st_size == 0
            there_ns = (self.home / name).stat().st_mtime_ns
        except (ModelError, ValueError, OSError):
            return None
        mark = self._mark(name)
        if (
            manifest.name != self.home.name
            or is_empty
            or (self.is_marked(name) and (not mark or mark.sha256 != sha256))
        ):
            return None
        return Slot(name, manifest.version, sha256, rfc3339(there_ns), mark.release if mark else None)

    def made_of(self, name: str) -> str | None:
        """Digest of the signed bundle that this one was made of, on this device."""
        try:
            with (self.home / name / MADE_OF).open("rb") as file:
                return file.read(64).decode("ascii", "replace")
        except OSError:
            return None

    def named_by(self, file: str) -> str | None:
        """The folder that `current` or `previous` names, there or not."""
        try:
            with (self.home / file).open("rb") as opened:
                text = opened.read(256).decode("ascii", "replace").strip()
        except OSError:
            return None
        return text if re.fullmatch(VERSION_PATTERN, text) else None

    def _mark(self, name: str) -> Mark | None:
        try:
            with (self.home / name / _MARK).open("rb") as file:
                return _decode_mark(file.read(4096))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None

    def _names(self, below: str = ".") -> list[str]:
        try:
            return sorted(path.name for path in (self.home / below).iterdir())
        except OSError:
            return []

    # --- making --------------------------------------------------------------------------------------------------

    def unpack(self, part: BinaryIO, release: Release, needed: Collection[str]) -> str:
        """Make a bundle of an archive, whole or not at all; gives its name. Folders in `needed` are left alone.

        Raises:
            UpdateRefused: `archive` or `bundle`.
            OSError: the disk refuses.
        """
        make_dirs(self.home)
        fresh = Path(tempfile.mkdtemp(prefix=NEW, dir=self.home))
        try:
            try:
                extract_archive(part, fresh)
            except ArchiveError as exc:
                raise UpdateRefused("archive", str(exc)) from exc
            self.check(fresh.name, release)
            self.mark(fresh.name, release)
            fresh.chmod(0o750)
            name = self._free_name(release, needed)
            fresh.rename(self.home / name)
        except BaseException:
            shutil.rmtree(fresh, ignore_errors=True)
            raise
        fsync_dir(self.home)
        return name

    def check(self, name: str, release: Release) -> None:
        """Whether the manifest fits the release, and the other files the manifest. Raises UpdateRefused."""
        folder = self.home / name
        try:
            manifest = load_manifest(folder / MANIFEST)
        except ModelError as exc:
            raise UpdateRefused("bundle", str(exc).replace(f"{folder}/", "")) from exc
        wrong = _misfit(manifest, folder, release)
        if wrong:
            raise UpdateRefused("bundle", f"{MANIFEST}: {wrong}")

    def mark(self, name: str, release: Release) -> None:
        """Write down, durably, which release brought a folder. Raises OSError."""
        mark = Mark(release.release, release.archive.sha256)
        write_atomic(self.home / name / _MARK, msgspec.json.encode(mark), 0o640)

    def _free_name(self, release: Release, needed: Collection[str]) -> str:
        """The version; with the digest where another folder has that name."""
        tail = f"+{release.archive.sha256[:12]}"
        longer = release.version[: _MAX_NAME_CHARS - len(tail) - len("-99")] + tail
        for name in (release.version, longer, *(f"{longer}-{number}" for number in range(2, 100))):
            if name not in needed and self.is_marked(name):
                self.remove(name)
            if name not in (CURRENT, PREVIOUS) and not os.path.lexists(self.home / name):
                return name
        raise UpdateFailed("storage", f"{self.home}: a hundred folders are in the way of {longer}")

    def point(self, file: str, name: str | None) -> None:
        """Let `current` or `previous` name a folder; only written when different. Raises OSError.

        None removes the file, but not one that names a folder made by hand: somebody may be busy with it.
        """
        if name is not None:
            if self.named_by(file) != name:
                write_atomic(self.home / file, f"{name}\n".encode(), 0o644)
            return
        named = self.named_by(file)
        if named and (self.is_marked(named) or not (self.home / named).is_dir()):
            (self.home / file).unlink(missing_ok=True)
            fsync_dir(self.home)

    # --- deleting ------------------------------------------------------------------------------------------------

    def sweep(self, needed: Collection[str], wanted_sha256: str | None) -> None:
        """Delete what is left over: marked folders not in `needed`, received parts, temporary things.

        Whole folders and parts of the digest `wanted_sha256` stay. What the disk does not let go of stays too.
        """
        for name, mark in self.marks().items():
            is_wanted = mark is not None and mark.sha256 == wanted_sha256 and self.is_whole(name, mark.sha256)
            if name not in needed and not is_wanted:
                self.remove(name)
        for name in self._names():
            if name.startswith((NEW, _GONE)):
                shutil.rmtree(self.home / name, ignore_errors=True)
            elif name[0] == "." and name.endswith(".tmp"):
                _unlink(self.home / name)
        for name in self._names(INCOMING):
            if not (wanted_sha256 and name.startswith(wanted_sha256)):
                _unlink(self.home / INCOMING / name)

    def remove(self, name: str) -> None:
        """A folder that a release brought. First it loses its name: half of it must not be taken for something."""
        gone = self.home / f"{_GONE}{name}"
        shutil.rmtree(gone, ignore_errors=True)
        with contextlib.suppress(OSError):
            (self.home / name).rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def _misfit(manifest: Manifest, folder: Path, release: Release) -> str | None:
    if (manifest.name, manifest.version) != (release.model, release.version):
        return f"expected {release.model} {release.version}, got {manifest.name} {manifest.version}"
    if manifest.labels and (manifest.labels != LABELS or not (folder / LABELS).is_file()):
        return f"labels: expected {LABELS} in the bundle, or null, got {manifest.labels!r}"
    if manifest.golden and (manifest.golden.dir != GOLDEN or not (folder / GOLDEN).is_dir()):
        return f"golden.dir: expected the folder {GOLDEN} in the bundle, got {manifest.golden.dir!r}"
    return None


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
