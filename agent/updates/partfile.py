"""An archive that is not whole yet. The file is its own account: what is there is what its digests say."""

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Self

from agent.runtime.files import fsync_dir
from agent.wire.releases import DIGEST_BYTES, Archive

SYNC_BYTES = 4 << 20
"""A power cut costs no more than this, and the disk is not asked for each chunk."""


class PartFile:
    """Chunks at their places. After a crash or a power cut, `scan` finds those that are really there.

    Every method may raise OSError.
    """

    def __init__(self, path: Path, archive: Archive, digests: bytes) -> None:
        """Open or make the file, with room for all of it, so that a full disk shows at once.

        Args: the digests of all chunks, one behind the other, as the release names them.
        """
        self._path, self._archive, self._digests = path, archive, digests
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._unsynced_bytes = 0
        self.received_bytes = 0
        """What is there and right, as far as `scan` has come."""
        self.missing: list[int] = []
        """Chunks that `scan` did not find."""
        try:
            empty = os.fstat(self._fd).st_size == 0
            self._allocate(empty=empty)
        except OSError:
            self.close()
            raise
        self._scanned = archive.chunks if empty else 0
        if empty:
            self.missing = list(range(archive.chunks))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def size_of(self, index: int) -> int:
        """Bytes of a chunk; the last may be shorter."""
        return min(self._archive.chunk_bytes, self._archive.size_bytes - index * self._archive.chunk_bytes)

    def scan(self) -> bool:
        """Look at one more chunk; False when all have been looked at."""
        index = self._scanned
        if index == self._archive.chunks:
            return False
        data = os.pread(self._fd, self.size_of(index), index * self._archive.chunk_bytes)
        if self._is_right(index, data):
            self.received_bytes += len(data)
        else:
            self.missing.append(index)
        self._scanned += 1
        return True

    def put(self, index: int, data: bytes) -> bool:
        """Write a chunk; False when it is not the one that the release names, and nothing is written then."""
        if not self._is_right(index, data):
            return False
        offset, written = index * self._archive.chunk_bytes, 0
        while written < len(data):
            written += os.pwrite(self._fd, data[written:], offset + written)
        self.received_bytes += len(data)
        self._unsynced_bytes += len(data)
        if self._unsynced_bytes >= SYNC_BYTES:
            self.sync()
        return True

    def sync(self) -> None:
        """Make it durable. The file goes when that fails: the kernel may show bytes then that are not on the disk."""
        try:
            os.fdatasync(self._fd)
        except OSError:
            self._remove()
            raise
        self._unsynced_bytes = 0

    def close(self) -> None:
        """Twice does no harm."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _allocate(self, *, empty: bool) -> None:
        size_bytes = self._archive.size_bytes
        os.ftruncate(self._fd, size_bytes)
        try:
            os.posix_fallocate(self._fd, 0, size_bytes)
        except OSError:
            if empty:  # what it got of the disk is of no use
                self._remove()
            raise
        os.fsync(self._fd)
        fsync_dir(self._path.parent)

    def _is_right(self, index: int, data: bytes) -> bool:
        signed = self._digests[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]
        return len(data) == self.size_of(index) and hashlib.sha256(data).digest() == signed

    def _remove(self) -> None:
        with contextlib.suppress(OSError):
            self._path.unlink()
