"""The one archive of a bundle: its bytes are a function of the files' names and contents, and of nothing else.

An uncompressed ustar of known names only, sorted, mode 0644, owner 0, time 0, no folders, no extensions, two empty
blocks at the end. Its sha256 is the bundle's digest. Reading is strict: what packing would not write is refused.
"""

import hashlib
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from agent.runtime.files import fsync_dir

MANIFEST, MODEL, LABELS, LICENSE, GOLDEN = "manifest.yaml", "model.tflite", "labels.txt", "LICENSE", "golden"
HEAD = "head.npy"
MAX_BYTES = {MANIFEST: 1 << 20, MODEL: 1 << 30, LABELS: 1 << 20, LICENSE: 1 << 20, HEAD: 64 << 20}
"""The largest size of each known name, in bytes; beside them only files in the folder `golden` are known."""
KNOWN = (*MAX_BYTES, f"{GOLDEN}/*")
MAX_GOLDEN_BYTES = 8 << 20
MAX_FILES = 256
NEEDED = (MANIFEST, MODEL)

_BLOCK = tarfile.BLOCKSIZE
_END = bytes(2 * _BLOCK)
_COPY_BYTES = 256 << 10
_GOLDEN_NAME = re.compile(r"golden/[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_SIZE = re.compile(rb"[0-7]{11}\0")


class ArchiveError(ValueError):
    """A folder that can't be packed, or an archive that packing would not have written; one line."""


class ArchiveInfo(NamedTuple):
    """What a release says of an archive."""

    sha256: str
    size_bytes: int


def archive_size(folder: Path) -> int:
    """Bytes of the archive that `write_archive` makes of a bundle; raises as it does."""
    return len(_END) + sum(_BLOCK + size + _padding(size) for _, _, size in _members(folder, is_strict=True))


def write_archive(folder: Path, out: BinaryIO) -> ArchiveInfo:
    """Pack a bundle. Files whose names begin with a dot are left out.

    Raises:
        ArchiveError: a file has an unknown name or is too large, there are too many, or the manifest or the model is
            missing; names the file.
        OSError: a file can't be read, or `out` not written.
    """
    return _write(_members(folder, is_strict=True), out)


def archive_digest(folder: Path) -> str:
    """sha256 of a bundle's archive, in hex, of a folder on a device.

    A folder made by hand may have more in it than a release may: unknown names are not looked at, large files are.

    Raises:
        ArchiveError: the manifest or the model is missing, or a file changed while it was read.
        OSError: a file can't be read.
    """
    return _write(_members(folder, is_strict=False), None).sha256


def extract_archive(part: BinaryIO, into: Path) -> list[str]:
    """Unpack an archive into an empty folder, durably; gives the names of its files.

    Nothing is written outside of `into`. What was written before an error is left there.

    Raises:
        ArchiveError: it is not byte for byte what `write_archive` would write.
        OSError: a file can't be written.
    """
    names: list[str] = []
    while (header := _read(part, _BLOCK)) != bytes(_BLOCK):
        name, size = _parse_header(header)
        if names and name <= names[-1]:
            raise ArchiveError(f"{name}: not in order, or there twice")
        if len(names) == MAX_FILES:
            raise ArchiveError(f"more than {MAX_FILES} files")
        names.append(name)
        _extract(part, into / name, size)
        if any(_read(part, _padding(size))):
            raise ArchiveError(f"{name}: padded with something else than zeros")
    if any(_read(part, _BLOCK)) or part.read(1):
        raise ArchiveError("something follows after the last file")
    for needed in NEEDED:
        if needed not in names:
            raise ArchiveError(f"{needed} is missing")
    if (into / GOLDEN).is_dir():
        fsync_dir(into / GOLDEN)
    fsync_dir(into)
    return names


def _max_bytes(name: str) -> int | None:
    """None: the name is not known."""
    return MAX_GOLDEN_BYTES if _GOLDEN_NAME.fullmatch(name) else MAX_BYTES.get(name)


def _padding(size: int) -> int:
    return -size % _BLOCK


def _members(folder: Path, *, is_strict: bool) -> list[tuple[str, Path, int]]:
    """Name, path and size of the files to pack, in their order."""
    found = []
    for name, path in _files(folder):
        size, limit = path.stat().st_size if path.is_file() else None, _max_bytes(name)
        if size is not None and limit is not None and (size <= limit or not is_strict):
            found.append((name, path, size))
        elif is_strict and size is not None and limit is not None:
            raise ArchiveError(f"{path}: expected at most {limit} bytes, got {size}")
        elif is_strict:
            raise ArchiveError(f"{path}: expected only files named {', '.join(KNOWN)}; move it out of the bundle")
    if is_strict and len(found) > MAX_FILES:
        raise ArchiveError(f"{folder}: expected at most {MAX_FILES} files, got {len(found)}")
    there = {name for name, _, _ in found}
    for needed in NEEDED:
        if needed not in there:
            raise ArchiveError(f"{folder / needed}: this file is missing")
    return sorted(found)


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for path in folder.iterdir():
        if path.name == GOLDEN and path.is_dir():
            yield from ((f"{GOLDEN}/{golden.name}", golden) for golden in path.iterdir() if golden.name[0] != ".")
        elif path.name[0] != ".":
            yield path.name, path


def _write(members: list[tuple[str, Path, int]], out: BinaryIO | None) -> ArchiveInfo:
    digest, total = hashlib.sha256(), 0

    def put(data: bytes) -> None:
        nonlocal total
        digest.update(data)
        total += len(data)
        if out is not None:
            out.write(data)

    for name, path, size in members:
        put(_make_header(name, size))
        with path.open("rb") as file:
            _copy(file, size, put, str(path))
            if file.read(1):
                raise ArchiveError(f"{path}: it changed while it was read")
        put(bytes(_padding(size)))
    put(_END)
    return ArchiveInfo(digest.hexdigest(), total)


def _make_header(name: str, size: int) -> bytes:
    """The 512 bytes before a file. A new TarInfo is of mode 0644, owner 0 and time 0."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _parse_header(header: bytes) -> tuple[str, int]:
    """Name and size, if it is the very header that packing would write for them."""
    name = header[:100].rstrip(b"\0").decode("ascii", "replace")
    limit = _max_bytes(name)
    if limit is None:
        raise ArchiveError(f"{name[:100]!r}: not a name that a bundle may have")
    size = int(header[124:135], 8) if _SIZE.fullmatch(header[124:136]) else -1
    if size < 0 or header != _make_header(name, size):
        raise ArchiveError(f"{name}: its header has another form than it must have")
    if size > limit:
        raise ArchiveError(f"{name}: {size} bytes, at most {limit} are allowed")
    return name, size


def _extract(part: BinaryIO, path: Path, size: int) -> None:
    if path.parent.name == GOLDEN and not path.parent.is_dir():
        path.parent.mkdir(mode=0o750)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o640)
    with os.fdopen(fd, "wb") as file:
        _copy(part, size, file.write, path.name)
        file.flush()
        os.fsync(file.fileno())


def _copy(file: BinaryIO, size: int, put: Callable[[bytes], object], name: str) -> None:
    left = size
    while left:
        data = file.read(min(left, _COPY_BYTES))
        if not data:
            raise ArchiveError(f"{name}: it ends {left} bytes too early")
        put(data)
        left -= len(data)


def _read(part: BinaryIO, size: int) -> bytes:
    data = part.read(size)
    if len(data) != size:
        raise ArchiveError("it ends too early")
    return data
