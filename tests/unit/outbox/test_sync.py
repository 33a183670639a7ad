"""When the disk is asked to make records durable: `power` before a put returns, `balanced` only for what stays."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.errors import OutboxError
from agent.outbox import segment, syncer
from agent.outbox.store import Outbox
from tests.sim import wait_until
from tests.unit.outbox.support import message, open_box, read_all, texts


class Disk:
    """Writes down which segments are synced, and how much is in them; fails or waits when told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[tuple[str, int]] = []
        self.broken = False
        self.ready = threading.Event()
        self.ready.set()
        self.asked = threading.Semaphore(0)
        self._real = os.fdatasync
        monkeypatch.setattr(os, "fdatasync", self._sync)

    def _sync(self, fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.suffix != ".seg":
            self._real(fd)
            return
        size = len(path.read_bytes().rstrip(b"\0"))
        self.asked.release()
        assert self.ready.wait(30)
        if self.broken:
            raise OSError(errno.EIO, "Input/output error")
        self._real(fd)
        self.synced.append((path.name, size))


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture(autouse=True)
def short_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncer, "_TICK_S", 0.02)


class Looped:
    """Runs the outbox's sync loop while the block lasts."""

    def __init__(self, box: Outbox) -> None:
        self._box, self._stop = box, threading.Event()
        self._thread = threading.Thread(target=box.sync_loop, args=(self._stop,))

    def __enter__(self) -> Outbox:
        self._thread.start()
        wait_until(lambda: self._box._syncer._looping)
        return self._box

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.fixture
def power(tmp_path: Path, disk: Disk) -> Iterator[Outbox]:
    with Looped(open_box(tmp_path / "outbox", durability="power")) as box:
        yield box
    box.close()


@pytest.fixture
def balanced(tmp_path: Path, disk: Disk) -> Iterator[Outbox]:
    with Looped(open_box(tmp_path / "outbox")) as box:
        yield box
    box.close()


class TestPower:
    def test_a_message_is_on_the_disk_before_put_returns(self, power: Outbox, disk: Disk) -> None:
        for _ in range(3):
            power.put(message())
            assert power.stats().bytes == disk.synced[-1][1]

    def test_callers_that_wait_share_a_sync(self, power: Outbox, disk: Disk) -> None:
        disk.ready.clear()
        threads = [threading.Thread(target=power.put, args=(message(str(n)),)) for n in range(10)]
        for thread in threads:
            thread.start()
        wait_until(lambda: power.stats().pending == 10)
        disk.ready.set()
        for thread in threads:
            thread.join(30)

        assert 2 >= len(disk.synced)
        assert 10 == len(read_all(power))

    def test_a_failing_disk_refuses_at_once(self, power: Outbox, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(syncer, "_DEADLINE_S", 1000.0)
        disk.broken = True
        with pytest.raises(OutboxError, match=r"outbox\.dir: .* could not be made durable"):
            power.put(message("a"))
        assert 1 == power.stats().dropped
        disk.broken = False
        power.put(message("b"))
        assert 1 == power.stats().dropped

    def test_a_disk_that_does_not_answer_refuses_in_the_end(
        self, power: Outbox, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(syncer, "_DEADLINE_S", 0.05)
        disk.ready.clear()
        with pytest.raises(OutboxError, match="could not be made durable"):
            power.put(message("a"))
        disk.ready.set()

    def test_without_the_loop_put_syncs_itself(self, tmp_path: Path, disk: Disk) -> None:
        """Messages at the start and at the end of the daemon, when its threads do not run."""
        box = open_box(tmp_path / "outbox", durability="power")
        box.put(message())
        assert box.stats().bytes == disk.synced[-1][1]
        box.close()

    def test_a_caller_that_waits_when_the_loop_ends_is_served(self, tmp_path: Path, disk: Disk) -> None:
        box = open_box(tmp_path / "outbox", durability="power")
        with Looped(box):
            disk.ready.clear()
            putter = threading.Thread(target=box.put, args=(message(),))
            putter.start()
            assert disk.asked.acquire(timeout=30)
            disk.ready.set()
        putter.join(30)

        assert not putter.is_alive()
        assert box.stats().bytes == disk.synced[-1][1]
        box.close()

    def test_space_is_allocated_before_so_that_a_sync_writes_data_only(self, power: Outbox, tmp_path: Path) -> None:
        power.put(message())
        path = next((tmp_path / "outbox").glob("*.seg"))
        size = path.stat().st_size
        power.put(message())

        assert size == path.stat().st_size == segment.SEGMENT_BYTES
        assert 2 == len(read_all(power))

    def test_what_was_allocated_and_not_used_is_no_damage(self, tmp_path: Path) -> None:
        for number in range(3):
            box = open_box(tmp_path / "outbox", durability="power")
            box.put(message(str(number)))
            box.close()
        box = open_box(tmp_path / "outbox", durability="power")

        assert ["0", "1", "2"] == texts(read_all(box))
        assert (3, 0) == (box.stats().pending, box.stats().damaged)
        box.close()

    def test_new_names_are_made_durable_too(self, power: Outbox, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
        folders: list[Path] = []
        monkeypatch.setattr(syncer, "fsync_dir", folders.append)
        monkeypatch.setattr(segment, "SEGMENT_BYTES", 1000)
        for _ in range(20):
            power.put(message(size=100))

        assert len({name for name, _ in disk.synced}) == len(folders) > 2


class Script(threading.Event):
    """A stop event for the loop's thread: each wait takes no time but moves the loop's clock, and does something."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, action: Callable[[], None], until_s: float) -> None:
        super().__init__()
        self.now_s = 0.0
        self._action, self._until_s = action, until_s
        monkeypatch.setattr(syncer, "_TICK_S", 0.25)
        monkeypatch.setattr(syncer, "time", SimpleNamespace(monotonic=lambda: self.now_s))

    def wait(self, timeout: float | None = None) -> bool:
        self.now_s += min(timeout or 0.0, 0.01)
        self._action()
        if self.now_s >= self._until_s:
            self.set()
        return self.is_set()


class TestBalanced:
    def test_what_is_acknowledged_within_half_a_second_is_never_synced(
        self, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segment, "SEGMENT_BYTES", 1000)
        box = open_box(tmp_path / "outbox")
        ids: list[int] = []

        def put_and_ack_what_is_half_a_second_old() -> None:
            ids.append(box.put(message(size=100)))
            box.next(ids[-1] - 1, 1, 1 << 20)
            if len(ids) > 50:
                box.ack(ids[-50])
            if script.now_s >= 5.0:
                box.ack(ids[-1])

        script = Script(monkeypatch, put_and_ack_what_is_half_a_second_old, 5.0)
        box.sync_loop(script)

        assert len(ids) >= 500
        assert [] == disk.synced
        box.close()

    @pytest.mark.parametrize("put_s", [0.0, 0.26, 0.35, 0.49, 0.5])
    def test_what_stays_is_synced_before_it_is_a_second_old(
        self, tmp_path: Path, disk: Disk, monkeypatch: pytest.MonkeyPatch, put_s: float
    ) -> None:
        box = open_box(tmp_path / "outbox")
        synced_s: list[float] = []

        def put_and_watch() -> None:
            if not box.stats().pending and script.now_s >= put_s:
                box.put(message())
            if disk.synced and not synced_s:
                synced_s.append(script.now_s - 0.01)

        script = Script(monkeypatch, put_and_watch, 5.0)
        box.sync_loop(script)

        assert 0.7 <= synced_s[0] - put_s <= 1.0
        assert 1 == len(disk.synced)
        box.close()

    def test_what_stays_is_synced_once(self, balanced: Outbox, disk: Disk) -> None:
        balanced.put(message())
        assert disk.asked.acquire(timeout=30)
        wait_until(lambda: disk.synced)

        assert not disk.asked.acquire(timeout=0.2)
        assert [balanced.stats().bytes] == [size for _, size in disk.synced]

    def test_a_failing_disk_is_tried_again(self, balanced: Outbox, disk: Disk) -> None:
        disk.broken = True
        balanced.put(message("a"))
        assert disk.asked.acquire(timeout=30)
        assert disk.asked.acquire(timeout=30)
        disk.broken = False
        wait_until(lambda: disk.synced)

        assert ["a"] == texts(read_all(balanced))
        assert 0 == balanced.stats().dropped

    def test_close_syncs_the_rest(self, tmp_path: Path, disk: Disk) -> None:
        box = open_box(tmp_path / "outbox")
        box.put(message())
        assert [] == disk.synced
        size = box.stats().bytes
        box.close()

        assert [size] == [synced for _, synced in disk.synced]

    def test_close_does_not_sync_what_is_acknowledged(self, tmp_path: Path, disk: Disk) -> None:
        box = open_box(tmp_path / "outbox")
        box.put(message())
        box.ack(read_all(box)[-1].id)
        box.close()

        assert [] == disk.synced

    def test_the_ack_file_is_never_behind_files_that_are_gone(
        self, balanced: Outbox, disk: Disk, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Or a power cut would make acknowledged messages look like damage."""
        order: list[str] = []
        monkeypatch.setattr(segment, "SEGMENT_BYTES", 1000)
        real_sync = balanced._ackfile.sync
        monkeypatch.setattr(balanced._ackfile, "sync", lambda: bool(order.append("ack")) or real_sync())
        balanced.put(message(size=500))
        balanced.ack(balanced.next(0, 10, 1 << 20)[-1].id)
        balanced.put(message(size=500))
        wait_until(lambda: disk.synced)

        assert ["ack"] == order

    def test_the_loop_drops_what_is_too_old(self, tmp_path: Path) -> None:
        box = open_box(tmp_path / "outbox", max_age_s=0.1)
        box.put(message("old"))
        with Looped(box):
            wait_until(lambda: box.stats().dropped)

        assert ["gap 1 max_age"] == texts(read_all(box))
        box.close()
