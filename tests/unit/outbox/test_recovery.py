"""What a kill, a power cut or a bad card leaves behind is read as far as it goes, and what is gone is announced."""

import errno
import os
from pathlib import Path

import pytest

from agent.errors import OutboxError
from agent.outbox import reader, segment
from agent.outbox.ackfile import AckFile, AckState
from agent.outbox.chain import Hole, Point
from tests.unit.outbox.support import assert_chain, fields, message, open_box, read_all, snapshot, texts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SEGMENT_BYTES", 1000)


def write(folder: Path, *names: str) -> list[int]:
    """Put messages into an outbox of one file and close it; a name that begins with `#` is a snapshot."""
    box = open_box(folder)
    ids = [box.put(snapshot(name.encode()) if name[0] == "#" else message(name)) for name in names]
    box.close()
    return ids


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.seg"))


def spoil(path: Path, text: bytes) -> None:
    """Flip a bit where a text stands."""
    data = bytearray(path.read_bytes())
    data[data.index(text)] ^= 1
    path.write_bytes(data)


def reread(folder: Path) -> list[str]:
    box = open_box(folder)
    found = read_all(box)
    assert_chain(found)
    box.close()
    return [m.payload.decode() if m.topic == "snapshots" else texts([m])[0] for m in found]


class TestTail:
    @pytest.mark.parametrize("cut", [1, 30, 60])
    def test_a_torn_record_at_the_end_is_cut_off(self, folder: Path, cut: int) -> None:
        ids = write(folder, "a", "b", "c")
        path = files(folder)[0]
        os.truncate(path, path.stat().st_size - cut)
        box = open_box(folder)
        box.put(message("d"))

        assert ["a", "b", "d"] == texts(read_all(box))
        assert ids[1] == fields(read_all(box)[2])["prev"]
        assert 0 == box.stats().damaged
        box.close()

    @pytest.mark.parametrize("rest", [b"\0" * 5000, b"\xf5EO1", b"\xf5EO1" + b"\xff" * 100, os.urandom(300)])
    def test_rubbish_at_the_end_is_cut_off(self, folder: Path, rest: bytes) -> None:
        write(folder, "a", "b")
        size = files(folder)[0].stat().st_size
        with files(folder)[0].open("ab") as file:
            file.write(rest)

        assert ["a", "b"] == reread(folder)
        assert size == files(folder)[0].stat().st_size

    def test_records_of_an_older_file_are_cut_off(self, folder: Path) -> None:
        """Some file systems show old blocks behind the end of a file after a power cut."""
        write(folder, "old")
        old = files(folder)[0].read_bytes()
        files(folder)[0].unlink()
        write(folder, "new")
        with files(folder)[0].open("ab") as file:
            file.write(old)

        assert ["new"] == reread(folder)

    def test_a_file_without_a_whole_record_goes(self, folder: Path) -> None:
        write(folder, "a")
        (folder / "9000000000000000.seg").write_bytes(b"")

        assert ["a"] == reread(folder)
        assert 1 == len(files(folder))

    def test_when_the_tail_was_acknowledged_the_chain_goes_on_behind_it(self, folder: Path) -> None:
        """A power cut may take the file and leave the ack file."""
        box = open_box(folder)
        ids = [box.put(message(name)) for name in "abc"]
        box.ack(read_all(box)[1].id)
        box.close()
        files(folder)[0].unlink()
        box = open_box(folder)
        new = box.put(message("d"))

        assert new > ids[2]
        assert ids[1] == fields(read_all(box)[0])["prev"]
        box.close()

    def test_a_reader_can_tell_that_the_device_lost_what_it_got(self, folder: Path) -> None:
        """Then `prev` is below its last `seq`, and the epoch is another."""
        ids = write(folder, "a", "b", "c")
        path = files(folder)[0]
        os.truncate(path, path.stat().st_size // 3)
        box = open_box(folder)
        new = fields(read_all(box)[-1]) if box.put(message("d")) else {}

        assert ids[0] == new["prev"] < ids[2]
        assert ids[2] >> 32 < new["seq"] >> 32
        box.close()


class TestDamage:
    def test_a_damaged_record_is_announced_in_its_place(self, folder: Path) -> None:
        ids = write(folder, "a", "bad", "c")
        spoil(files(folder)[0], b"bad")
        box = open_box(folder)
        found = read_all(box)

        assert ["a", "gap 1 damaged", "c"] == texts(found)
        assert (ids[1], ids[0]) == (found[1].id, fields(found[1])["prev"])
        assert_chain(found)
        assert 1 == box.stats().damaged
        box.close()

    def test_several_in_a_row_are_one_gap_with_their_number(self, folder: Path) -> None:
        write(folder, "a", "bad1", "bad2", "bad3", "b", "bad4", "c")
        for name in (b"bad1", b"bad2", b"bad3", b"bad4"):
            spoil(files(folder)[0], name)

        assert ["a", "gap 3 damaged", "b", "gap 1 damaged", "c"] == reread(folder)

    def test_a_damaged_head_does_not_hide_what_follows(self, folder: Path) -> None:
        write(folder, "a", "b", "c")
        spoil(files(folder)[0], b"\xf5EO1")

        assert ["gap 1 damaged", "b", "c"] == reread(folder)

    def test_a_damaged_length_does_not_hide_what_follows(self, folder: Path) -> None:
        write(folder, "a", "b", "c")
        data = bytearray(files(folder)[0].read_bytes())
        data[6] = 0xFF
        files(folder)[0].write_bytes(data)

        assert ["gap 1 damaged", "b", "c"] == reread(folder)

    def test_a_damaged_snapshot_is_no_gap_and_a_snapshot_shows_a_gap(self, folder: Path) -> None:
        write(folder, "a", "#lost", "b", "bad", "#c")
        spoil(files(folder)[0], b"#lost")
        spoil(files(folder)[0], b"bad")

        assert ["a", "b", "gap 1 damaged", "#c"] == reread(folder)

    @pytest.mark.usefixtures("small_segments")
    @pytest.mark.parametrize("rubbish", [None, b"", b"\0" * 1000])
    def test_a_lost_file_is_announced(self, folder: Path, rubbish: bytes | None) -> None:
        write(folder, *(f"{number:04d}" for number in range(40)))
        lost = files(folder)[2]
        count = lost.read_bytes().count(b"\xf5EO1")
        lost.unlink() if rubbish is None else lost.write_bytes(rubbish)
        found = reread(folder)

        assert 41 - count == len(found)
        assert 1 == found.count(f"gap {count} damaged")

    @pytest.mark.usefixtures("small_segments")
    def test_the_end_of_a_file_in_the_middle_is_announced(self, folder: Path) -> None:
        write(folder, *(f"{number:04d}" for number in range(40)))
        os.truncate(files(folder)[1], files(folder)[1].stat().st_size - 1)

        assert 1 == reread(folder).count("gap 1 damaged")

    def test_a_gap_that_was_handed_out_comes_again_in_the_same_bytes_until_acknowledged(self, folder: Path) -> None:
        write(folder, "a", "bad", "c")
        spoil(files(folder)[0], b"bad")
        box = open_box(folder)
        found = read_all(box, at_a_time=1)
        box.ack(found[0].id)
        assert found[1:] == read_all(box)
        box.ack(found[1].id)
        assert found[2:] == read_all(box)
        box.close()
        box = open_box(folder)
        assert found[2:] == read_all(box)
        box.close()

    def test_damage_that_is_evicted_is_in_the_gap(self, folder: Path) -> None:
        write(folder, "a", "bad", "c")
        spoil(files(folder)[0], b"bad")
        box = open_box(folder, max_bytes=1000)
        box.put(message(size=900))

        assert "gap 3 max_bytes" == texts(read_all(box))[0]
        assert_chain(read_all(box))
        box.close()

    def test_damage_under_a_running_outbox_is_announced(self, folder: Path) -> None:
        box = open_box(folder)
        for name in ("a", "bad1", "c", "bad2"):
            box.put(message(name))
        spoil(files(folder)[0], b"bad1")
        spoil(files(folder)[0], b"bad2")

        assert ["a", "gap 1 damaged", "c", "gap 1 damaged"] == texts(read_all(box))
        box.put(message("d"))
        assert ["a", "gap 1 damaged", "c", "gap 1 damaged", "d"] == texts(read_all(box))
        assert_chain(read_all(box))
        box.close()

    def test_blocks_that_can_not_be_read_cost_only_what_is_in_them(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        box = open_box(folder)
        for number in range(200):
            box.put(message(str(number), size=300))
        real_pread = os.pread

        def failing_pread(fd: int, size: int, offset: int) -> bytes:
            if offset <= 40_000 < offset + size:
                raise OSError(errno.EIO, "Input/output error")
            return real_pread(fd, size, offset)

        monkeypatch.setattr(segment.os, "pread", failing_pread)
        with pytest.raises(OutboxError, match="input/output error"):  # a disk may be well again soon
            read_all(box)
        monkeypatch.setattr(reader, "_GIVE_UP_S", 0.0)
        found = read_all(box)

        assert 150 < len(found) < 200
        assert 200 == len(found) - 1 + sum(fields(m).get("count", 0) for m in found)
        assert_chain(found)
        box.close()

    def test_other_errors_of_reading_say_so(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        box = open_box(folder)
        box.put(message())

        def no_more_files(*_: object) -> int:
            raise OSError(errno.EMFILE, "Too many open files")

        with monkeypatch.context() as patch:
            patch.setattr(segment.os, "open", no_more_files)
            with pytest.raises(OSError, match=r"outbox\.dir: .*: too many open files"):
                box.next(0, 10, 1000)
        assert 1 == len(box.next(0, 10, 1000))
        box.close()


class TestAckFile:
    FULL = AckState(
        2**21, 2**53, Point(2**53, 2**53), (Hole(Point(2**53, 2**53), Point(2**53, 2**53), "max_bytes"),) * 6
    )

    def test_a_new_one_knows_nothing_and_has_its_space(self, tmp_path: Path) -> None:
        file = AckFile(tmp_path / "ack")

        assert (None, False) == (file.state, file.damaged)
        assert 1024 == (tmp_path / "ack").stat().st_size
        file.close()

    def test_the_largest_state_fits_and_comes_back(self, tmp_path: Path) -> None:
        file = AckFile(tmp_path / "ack")
        assert file.save(self.FULL)
        assert file.save(self.FULL)
        assert file.sync()
        file.close()

        assert self.FULL == AckFile(tmp_path / "ack").state
        assert 1024 == (tmp_path / "ack").stat().st_size

    def test_the_newer_slot_counts_and_a_torn_one_leaves_the_older(self, tmp_path: Path) -> None:
        file = AckFile(tmp_path / "ack")
        for acked in range(1, 6):
            file.save(AckState(1, acked))
        file.close()
        whole = (tmp_path / "ack").read_bytes()

        assert AckState(1, 5) == AckFile(tmp_path / "ack").state
        (tmp_path / "ack").write_bytes(whole[:512] + whole[512:524] + bytes(500))
        assert AckState(1, 4) == AckFile(tmp_path / "ack").state

    def test_a_short_file_is_filled_up(self, tmp_path: Path) -> None:
        (tmp_path / "ack").write_bytes(b"rubbish")
        file = AckFile(tmp_path / "ack")

        assert (None, True) == (file.state, file.damaged)
        file.save(AckState(1, 7))
        assert AckState(1, 7) == AckFile(tmp_path / "ack").state
        file.close()

    def test_when_it_is_lost_everything_is_sent_again(self, folder: Path) -> None:
        box = open_box(folder)
        for name in "abc":
            box.put(message(name))
        box.ack(read_all(box)[1].id)
        box.close()
        (folder / "ack").write_bytes(os.urandom(1024))
        box = open_box(folder)

        assert ["a", "b", "c"] == texts(read_all(box))
        assert 1 == box.stats().damaged
        box.close()

    def test_a_disk_that_refuses_costs_duplicates_only(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        box = open_box(folder)
        for name in "abc":
            box.put(message(name))
        found = read_all(box)

        def refuse(*_: object) -> int:
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patch:
            patch.setattr("agent.outbox.ackfile.os.pwrite", refuse)
            box.ack(found[1].id)
        assert ["c"] == texts(read_all(box))
        box.close()
        assert ["a", "b", "c"] == reread(folder)


class TestStart:
    def test_foreign_files_are_left_alone(self, folder: Path) -> None:
        write(folder, "a")
        for name in ("note.txt", "x.seg", "²³.seg", ".epoch.7.tmp"):
            (folder / name).write_text("x")

        assert ["a"] == reread(folder)
        assert {"note.txt", "x.seg", "²³.seg"} <= {path.name for path in folder.iterdir()}
        assert not (folder / ".epoch.7.tmp").exists(), "left by a kill while the epoch was written"

    def test_what_was_evicted_but_not_yet_unlinked_does_not_come_back(self, folder: Path) -> None:
        """A kill between the two."""
        box = open_box(folder)
        for name in "ab":
            box.put(message(name))
        kept = files(folder)[0].read_bytes()
        box._evict("max_bytes")
        box.close()
        (folder / f"{(box._state.epoch << 32) + 1:016d}.seg").write_bytes(kept)

        assert ["gap 2 max_bytes"] == reread(folder)
        assert [] == [path for path in files(folder) if path.stat().st_size]

    def test_what_an_earlier_process_wrote_is_synced(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A kill leaves it in the page cache; the promise is about a second, not about a process."""
        write(folder, "a")
        synced: list[Path] = []
        monkeypatch.setattr(segment.os, "fdatasync", lambda fd: synced.append(Path(f"/proc/self/fd/{fd}").readlink()))
        box = open_box(folder)
        box.close()

        assert files(folder)[0] in synced
