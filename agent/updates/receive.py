"""Receives an archive: the list of its chunk digests first, then chunk after chunk into the part file.

Nothing that a broker sends is believed: what is not the signed chunk is dropped and asked for again, so that it costs
time and nothing else.
"""

import errno
import hashlib
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from agent.errors import UpdateFailed
from agent.runtime.files import write_atomic
from agent.updates.partfile import PartFile
from agent.updates.pull import RETRY_S, STALL_S, ChunkBox, Pace, Pull, Wires
from agent.wire.releases import Archive
from agent.wire.topics import Topics

__all__ = ["ChunkBox", "Transfer", "Wires"]

_WAIT_S = 0.1
"""The longest that `step` waits before it looks whether it is interrupted."""


class Transfer:
    """From a release's archive to the whole part file. For one thread; several may share wires and box."""

    def __init__(
        self,
        archive: Archive,
        folder: Path,
        topics: Topics,
        wires: Wires,
        box: ChunkBox,
        *,
        retry_s: float = RETRY_S,
        stall_s: float = STALL_S,
    ) -> None:
        """Opens nothing.

        Args:
            archive: as signed. Its size is for the caller to bound; the list, 32 bytes a chunk, is held in memory.
            folder: gets `{sha256}.part` and `{sha256}.list`; what lies there from an earlier try is used.
            retry_s: after so long, a chunk that does not come is asked for again, also one that came wrong.
            stall_s: after so long with a connection and without a new right chunk, the try has failed.
        """
        self.part_path = folder / f"{archive.sha256}.part"
        self.bad_chunks = 0
        """Chunks of the wrong size or with other bytes than the signed ones."""
        self._archive, self._list_path = archive, folder / f"{archive.sha256}.list"
        self._topics, self._wires, self._box = topics, wires, box
        self._pace = Pace(retry_s, stall_s)
        self._list: dict[int, bytes] = {}
        self._digests: bytes | None = None
        self._part: PartFile | None = None
        self._pull: Pull | None = None

    @property
    def received_bytes(self) -> int:
        """Of the archive: there and right."""
        return self._part.received_bytes if self._part else 0

    def step(self, budget_s: float, interrupted: Callable[[], bool]) -> bool:
        """Work for about `budget_s`; True when every chunk is there and durable.

        Raises:
            UpdateFailed: no_space, storage or missing_chunks. All is closed then; the next step begins anew.
        """
        deadline_s = time.monotonic() + budget_s
        try:
            while not self._turn(min(_WAIT_S, max(0.0, deadline_s - time.monotonic()))):
                if time.monotonic() >= deadline_s or interrupted():
                    return False
        except UpdateFailed:
            self.close()
            raise
        except OSError as exc:
            self.close()
            full = exc.errno in {errno.ENOSPC, errno.EDQUOT}
            raise UpdateFailed("no_space" if full else "storage", f"{self.part_path}: {exc.strerror or exc}") from exc
        return True

    def close(self) -> None:
        """End the subscriptions and close the file; what came stays for the next try. Twice does no harm."""
        if self._pull is not None:
            self._pull.close()
            self._pull = None
        if self._part is not None:
            self._part.close()
            self._part = None

    def _turn(self, wait_s: float) -> bool:
        """One small piece of the work: a chunk at most; True when there is no more."""
        if self._digests is None:
            self._get_list(wait_s)
            return False
        if self._part is None:
            self._part = PartFile(self.part_path, self._archive, self._digests)
        if self._pull is None:
            if not self._part.scan():
                self._pull = self._make_pull("chunk", self._archive.sha256, self._part.missing)
            return False
        if self._pull.done:
            self._part.sync()
            return True
        if came := self._pull.step(wait_s):
            self._take_chunk(self._part, self._pull, *came)
        return False

    def _make_pull(self, name: str, sha256: str, indices: Iterable[int]) -> Pull:
        return Pull(name, lambda index: self._topics.chunk(sha256, index), indices, self._wires, self._box, self._pace)

    def _take_chunk(self, part: PartFile, pull: Pull, index: int, payload: bytes) -> None:
        if part.put(index, payload):
            pull.waited_s = 0.0
        else:
            self.bad_chunks += 1
            pull.ask_again([index])

    def _get_list(self, wait_s: float) -> None:
        """The list of digests, from the last try or from the broker."""
        size, chunk = self._archive.chunk_list_bytes, self._archive.chunk_bytes
        if self._pull is None:
            self._list_path.parent.mkdir(parents=True, exist_ok=True)
            if self._is_list(data := _load(self._list_path, size)):
                self._digests = data
                return
            indices = range(math.ceil(size / chunk))
            self._pull = self._make_pull("part of the chunk list", self._archive.chunk_list_sha256, indices)
        if came := self._pull.step(wait_s):
            self._take_list_chunk(self._pull, *came)

    def _take_list_chunk(self, pull: Pull, index: int, payload: bytes) -> None:
        """Only the whole list has a signed digest: it is right or wrong as a whole."""
        size, chunk = self._archive.chunk_list_bytes, self._archive.chunk_bytes
        if len(payload) != min(chunk, size - index * chunk):
            self.bad_chunks += 1
            pull.ask_again([index])
            return
        self._list[index] = payload
        if not pull.done:
            return
        data = b"".join(self._list[index] for index in sorted(self._list))
        if not self._is_list(data):
            self.bad_chunks += 1
            pull.ask_again(self._list)
            return
        write_atomic(self._list_path, data)
        self._digests = data
        pull.close()
        self._pull = None

    def _is_list(self, data: bytes) -> bool:
        size, signed = self._archive.chunk_list_bytes, self._archive.chunk_list_sha256
        return len(data) == size and hashlib.sha256(data).hexdigest() == signed


def _load(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size + 1)
    except FileNotFoundError:
        return b""
