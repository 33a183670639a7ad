"""What was sent can be kept for a while."""

import errno
import os
from pathlib import Path

import pytest

from agent.outbox import segment
from agent.outbox.sent import read_folder
from agent.outbox.store import Outbox
from tests.unit.outbox.support import message, open_box, read_all

KEEP_BYTES = 10_000


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 2000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


def put_and_ack(box: Outbox, count: int) -> list[int]:
    ids = []
    for n in range(count):
        ids.append(box.put(message(str(n), size=100)))
        box.ack(read_all(box)[-1].id)
    return ids


def ids_in(folder: Path) -> list[int]:
    return [record.id for record in read_folder(folder)]


def sent_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.sent"))


def test_the_latest_are_kept_up_to_the_bound(folder: Path) -> None:
    box = open_box(folder, keep_bytes=KEEP_BYTES)
    ids = put_and_ack(box, 200)

    found = ids_in(folder)
    assert ids[-len(found) :] == found
    assert KEEP_BYTES - 2000 < sent_bytes(folder) <= KEEP_BYTES
    assert box.stats().pending == 0


def test_nothing_is_kept_unless_asked_for(folder: Path) -> None:
    put_and_ack(open_box(folder), 200)

    assert sent_bytes(folder) == 0


def test_what_waits_is_there_too(folder: Path) -> None:
    box = open_box(folder, keep_bytes=KEEP_BYTES)
    sent = put_and_ack(box, 20)
    waiting = [box.put(message(size=100)) for _ in range(20)]

    assert [*sent, *waiting] == ids_in(folder)


def test_a_start_takes_them_over_and_holds_a_smaller_bound(folder: Path) -> None:
    box = open_box(folder, keep_bytes=KEEP_BYTES)
    put_and_ack(box, 200)
    box.close()
    open_box(folder, keep_bytes=KEEP_BYTES).close()
    assert sent_bytes(folder) > KEEP_BYTES - 2000
    open_box(folder, keep_bytes=4000).close()
    assert 0 < sent_bytes(folder) <= 4000
    open_box(folder).close()
    assert sent_bytes(folder) == 0


def test_they_go_first_when_the_disk_is_full(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    box = open_box(folder, keep_bytes=KEEP_BYTES)
    put_and_ack(box, 200)
    waiting = box.put(message(size=100))
    write, fails = os.pwrite, [True]

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if fails:
            fails.clear()
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    last = box.put(message(size=100))

    assert sent_bytes(folder) == 0
    assert [waiting, last] == [m.id for m in read_all(box)]
    assert box.stats().dropped == 0


def test_where_they_are_too_small_the_oldest_that_wait_go_as_well(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = open_box(folder, keep_bytes=KEEP_BYTES)
    put_and_ack(box, 1)
    for _ in range(2):  # each start begins a segment
        box.close()
        box = open_box(folder, keep_bytes=KEEP_BYTES)
        box.put(message(size=100))
    assert sorted(path.suffix for path in folder.glob("*.se*")) == [".seg", ".seg", ".sent"]
    write = os.pwrite

    def pwrite(fd: int, data: bytes, offset: int) -> int:
        if len(data) > 5000 and len(list(folder.glob("*.se*"))) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    large = box.put(message(size=6000))
    assert ids_in(folder) == [large]
    assert box.stats().dropped == 2


def test_evicting_what_waits_does_not_count_what_was_sent(folder: Path) -> None:
    box = open_box(folder, keep_bytes=KEEP_BYTES, max_bytes=6000)
    put_and_ack(box, 100)
    for _ in range(100):
        box.put(message(size=100))

    stats = box.stats()
    assert stats.pending + stats.dropped == 100


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(read_folder(tmp_path / "nowhere"))
