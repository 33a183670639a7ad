"""A disk that fails: what is stored already stays, and what it refused to do is done later."""

import errno
import os
from pathlib import Path

import pytest

from agent.errors import OutboxError
from agent.outbox import segment
from tests.sim.disk import trouble
from tests.unit.outbox.support import assert_chain, message, open_box, read_all, texts


class Writes:
    """Fails as many writes to segments as it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.bad = 0
        self._real = os.pwrite
        monkeypatch.setattr(segment.os, "pwrite", self._write)

    def _write(self, fd: int, data: bytes, offset: int) -> int:
        if self.bad and Path(f"/proc/self/fd/{fd}").readlink().suffix == ".seg":
            self.bad -= 1
            raise OSError(errno.EIO, "Input/output error")
        return self._real(fd, data, offset)


def test_a_bad_place_is_left_and_nothing_given_up_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writes = Writes(monkeypatch)
    box = open_box(tmp_path)
    for name in "abc":
        box.put(message(name))
        writes.bad = 1
    assert texts(read_all(box)) == ["a", "b", "c"]
    assert len(list(tmp_path.glob("*.seg"))) == 3

    writes.bad = 1000
    for _ in range(3):
        with pytest.raises(OutboxError, match="input/output error"):
            box.put(message("refused"))
    assert box.stats().dropped == 3

    writes.bad = 0
    box.put(message("d"))
    assert texts(read_all(box)) == ["a", "b", "c", "d"]
    assert_chain(read_all(box))
    box.close()


def test_what_could_not_be_unlinked_goes_with_the_next_file(tmp_path: Path) -> None:
    box = open_box(tmp_path)
    for number in range(1500):
        box.put(message(str(number), size=400))
    with trouble(1, OSError(errno.EROFS, "Read-only file system"), lasting=True):
        box.ack(read_all(box)[-1].id)
    left = list(tmp_path.glob("*.seg"))
    assert box.stats().bytes < sum(path.stat().st_size for path in left)
    for number in range(600):
        box.put(message(str(number), size=400))

    assert len(read_all(box)) == 600
    assert box.stats().bytes == sum(path.stat().st_size for path in tmp_path.glob("*.seg"))
    box.close()
