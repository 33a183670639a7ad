"""What goes in comes out, in order, chained, until it is acknowledged."""

import errno
import os
import shutil
import threading
from pathlib import Path

import pytest

from agent.errors import OutboxError
from agent.outbox import record, segment
from agent.outbox.ackfile import AckFile
from agent.outbox.epoch import EPOCH_LIMIT
from agent.values import OutboundMessage
from tests.unit.outbox.support import Clocks, assert_chain, fields, message, open_box, read_all, snapshot, texts


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "outbox"


class TestPut:
    def test_a_message_comes_back_with_its_id_and_the_one_before_it(self, folder: Path) -> None:
        box = open_box(folder)
        first, second = box.put(message("a")), box.put(message("b"))

        assert [first, second] == [m.id for m in read_all(box)]
        assert [
            {"text": "a", "pad": "", "seq": first, "prev": 0},
            {"text": "b", "pad": "", "seq": second, "prev": first},
        ] == [fields(m) for m in read_all(box)]
        box.close()

    def test_everything_else_of_a_message_is_kept(self, folder: Path) -> None:
        box = open_box(folder)
        properties = (("event_id", "7"), ("größe", "ja"))
        sent = OutboundMessage("a/b", b"\xff\x00}", False, True, "image/jpeg", properties)
        id_ = box.put(sent)

        assert [(id_, "a/b", b"\xff\x00}", True, "image/jpeg", properties, False)] == box.next(0, 10, 1000)
        box.close()

    def test_a_message_out_of_the_chain_takes_an_id_and_is_skipped_by_the_chain(self, folder: Path) -> None:
        box = open_box(folder)
        first = box.put(message("a"))
        box.put(snapshot())
        third = box.put(message("b"))

        assert [first, first + 1, first + 2] == [m.id for m in read_all(box)]
        assert first == fields(read_all(box)[2])["prev"]
        assert third == assert_chain(read_all(box))
        box.close()

    def test_an_empty_object_stays_json(self, folder: Path) -> None:
        box = open_box(folder)
        id_ = box.put(OutboundMessage("t", b"{}"))

        assert {"seq": id_, "prev": 0} == fields(read_all(box)[0])
        box.close()

    def test_ids_are_exact_in_every_json_reader(self, folder: Path) -> None:
        box = open_box(folder)

        assert box.put(message()) < 2**53
        box.close()

    @pytest.mark.parametrize(
        "refused",
        [
            OutboundMessage("t", b"[1]"),
            OutboundMessage("t", b""),
            OutboundMessage("t", b"x" * (record.MAX_MESSAGE_BYTES + 1), in_chain=False),
            OutboundMessage("t", b"x", in_chain=False, user_properties=(("k", "v" * 70_000),)),
        ],
        ids=["not an object", "empty", "too large", "too many properties"],
    )
    def test_what_can_not_be_stored_is_refused_and_counted_and_takes_no_id(
        self, folder: Path, refused: OutboundMessage
    ) -> None:
        box = open_box(folder)
        first = box.put(message("a"))
        with pytest.raises(OutboxError):
            box.put(refused)

        assert first + 1 == box.put(message("b"))
        assert 1 == box.stats().dropped
        assert ["a", "b"] == texts(read_all(box))
        box.close()

    def test_a_write_that_fails_halfway_leaves_nothing(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(segment, "SEGMENT_BYTES", 1000)
        box = open_box(folder)
        for number in range(12):
            box.put(message(str(number)))
        real_pwrite = os.pwrite

        def write_half(fd: int, data: bytes, offset: int) -> int:
            if len(data) < 100:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real_pwrite(fd, data[:-50], offset)

        with monkeypatch.context() as patch:
            patch.setattr(segment.os, "pwrite", write_half)
            with pytest.raises(OutboxError, match="no space left on device"):
                box.put(message("refused"))

        assert box.stats().bytes == sum(path.stat().st_size for path in folder.glob("*.seg"))
        box.put(message("12"))
        found = texts(read_all(box))
        assert found[0].endswith("disk_full")
        assert [str(n) for n in range(14 - len(found), 13)] == found[1:]
        assert_chain(read_all(box))
        box.close()

    def test_a_file_that_a_failed_write_left_is_no_obstacle(self, folder: Path) -> None:
        box = open_box(folder)
        (folder / f"{box._next:016d}.seg").write_bytes(b"x" * 5000)
        box.put(message("a"))

        assert box.stats().bytes == next(folder.glob("*.seg")).stat().st_size
        assert ["a"] == texts(read_all(box))
        box.close()

    def test_the_largest_message_is_stored(self, folder: Path) -> None:
        box = open_box(folder, max_bytes=1 << 20)
        largest = snapshot(b"x" * (record.MAX_MESSAGE_BYTES - 100))
        box.put(largest)

        assert [largest.payload] == [m.payload for m in read_all(box)]
        box.close()

    def test_callers_in_many_threads_share_one_chain(self, folder: Path) -> None:
        box = open_box(folder)

        def put_many(name: str) -> None:
            for number in range(100):
                box.put(message(f"{name}{number}"))

        threads = [threading.Thread(target=put_many, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        found = texts(read_all(box))
        assert_chain(read_all(box))
        for name in "abcd":
            assert [f"{name}{n}" for n in range(100)] == [text for text in found if text[0] == name]
        box.close()

    def test_the_listener_is_called_outside_of_locks_for_what_was_accepted(self, folder: Path) -> None:
        box = open_box(folder)
        seen = []
        box.on_put = lambda: seen.append(box.stats().pending)
        box.put(message())
        with pytest.raises(OutboxError):
            box.put(OutboundMessage("t", b""))

        assert [1] == seen
        box.close()


class TestNext:
    def test_the_bounds_hold_but_one_message_always_comes(self, folder: Path) -> None:
        box = open_box(folder)
        for number in range(5):
            box.put(message(str(number), size=1000))

        assert ["0", "1"] == texts(box.next(0, 2, 1 << 20))
        assert ["0", "1"] == texts(box.next(0, 10, 2000))
        assert ["0"] == texts(box.next(0, 10, 0))
        assert [] == box.next(0, 0, 1 << 20)
        box.close()

    def test_a_new_connection_gets_what_is_not_acknowledged_again_in_the_same_bytes(self, folder: Path) -> None:
        box = open_box(folder)
        for number in range(10):
            box.put(message(str(number)))
        before = read_all(box, at_a_time=3)
        box.ack(before[3].id)

        assert before[4:] == read_all(box, at_a_time=4)
        assert before[7:] == box.next(before[6].id, 10, 1 << 20)
        box.close()

    def test_it_goes_on_over_the_ends_of_files_while_they_grow(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(segment, "SEGMENT_BYTES", 1000)
        box = open_box(folder)
        found, at = [], 0
        for number in range(200):
            box.put(message(str(number)))
            if number % 3 == 0:
                found += box.next(at, 2, 1 << 20)
                at = found[-1].id
        found += read_all(box, at)

        assert [str(number) for number in range(200)] == texts(found)
        assert len(list(folder.glob("*.seg"))) > 10
        assert_chain(found)
        box.close()

    def test_nothing_beyond_the_end(self, folder: Path) -> None:
        box = open_box(folder)
        box.put(message())

        assert [] == box.next(2**53, 10, 1000)
        box.close()


class TestWait:
    def test_it_ends_when_a_message_comes(self, folder: Path) -> None:
        box = open_box(folder)
        putter = threading.Thread(target=lambda: box.put(message("a")))
        putter.start()

        assert box.wait(box.acked, 30)
        putter.join(30)
        assert not box.wait(read_all(box)[-1].id, 0.01)
        box.close()

    def test_it_ends_when_the_outbox_closes(self, folder: Path) -> None:
        box = open_box(folder)
        closer = threading.Thread(target=box.close)
        closer.start()

        assert not box.wait(box.acked, 30)
        closer.join(30)

    def test_a_reader_without_room_is_told_that_there_is_more(self, folder: Path) -> None:
        box = open_box(folder)
        box.put(message())
        assert [] == box.next(0, 0, 1000)

        assert box.wait(0, 0.01)
        box.close()

    def test_what_a_reader_can_not_get_does_not_make_it_spin(self, folder: Path) -> None:
        box = open_box(folder)
        box.put(snapshot())
        next(folder.glob("*.seg")).unlink()

        assert box.wait(0, 0.01)
        assert [] == box.next(0, 10, 1000)
        assert not box.wait(0, 0.01)
        box.put(message("b"))
        assert box.wait(0, 0.01)
        box.close()


class TestAck:
    def test_what_is_acknowledged_does_not_come_again_also_after_a_restart(self, folder: Path) -> None:
        box = open_box(folder)
        ids = [box.put(message(str(number))) for number in range(4)]
        read_all(box)
        box.ack(ids[1])
        box.close()

        box = open_box(folder)
        assert ids[1] == box.acked
        assert ["2", "3"] == texts(read_all(box))
        assert_chain(read_all(box), ids[1])
        box.close()

    def test_an_id_that_was_not_handed_out_stands_for_the_last_that_was(self, folder: Path) -> None:
        box = open_box(folder)
        for number in range(4):
            box.put(message(str(number)))
        handed = box.next(0, 2, 1 << 20)
        box.ack(2**53)

        assert handed[-1].id == box.acked
        assert ["2", "3"] == texts(read_all(box))
        box.close()

    def test_a_new_connection_starts_over_with_what_was_handed_out(self, folder: Path) -> None:
        box = open_box(folder)
        ids = [box.put(message()) for _ in range(3)]
        read_all(box)
        box.next(box.acked, 1, 1 << 20)
        box.ack(ids[2])

        assert ids[0] == box.acked
        box.close()

    def test_an_older_one_changes_nothing(self, folder: Path) -> None:
        box = open_box(folder)
        ids = [box.put(message()) for _ in range(2)]
        read_all(box)
        box.ack(ids[1])
        box.ack(ids[0])

        assert ids[1] == box.acked
        box.close()

    def test_files_go_when_all_in_them_is_acknowledged(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(segment, "SEGMENT_BYTES", 1000)
        box = open_box(folder)
        for number in range(50):
            box.put(message(str(number)))
        files = len(list(folder.glob("*.seg")))
        handed = read_all(box)
        box.ack(handed[24].id)

        assert files // 2 == pytest.approx(len(list(folder.glob("*.seg"))), abs=2)
        assert [str(number) for number in range(25, 50)] == texts(read_all(box))
        box.ack(handed[-1].id)
        assert len(list(folder.glob("*.seg"))) <= 1
        assert 0 == box.stats().pending
        box.close()

    def test_the_file_that_is_written_to_goes_before_linux_writes_it_back(self, folder: Path) -> None:
        """Unless it is so small that unlinking it costs the disk more."""
        clocks = Clocks()
        box = open_box(folder, now=clocks)
        for count, after_s, files in ((300, 10, 1), (1, 15, 0), (1, 25, 1)):
            for _ in range(count):
                box.put(message(size=400))
            clocks.run(after_s)
            box.ack(read_all(box)[-1].id)
            assert len(list(folder.glob("*.seg"))) == files
        box.close()

    def test_no_more_than_mqtt_can_have_in_flight_is_handed_out(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent.outbox.store._MAX_UNACKED", 5)
        box = open_box(folder)
        for number in range(8):
            box.put(message(str(number)))

        handed = read_all(box)
        assert ["0", "1", "2", "3", "4"] == texts(handed)
        box.ack(handed[1].id)
        assert box.wait(handed[-1].id, 0.01)
        assert ["5", "6"] == texts(box.next(handed[-1].id, 10, 1 << 20))
        assert ["2", "3", "4", "5", "6"] == texts(read_all(box)), "a new connection gets them all again"
        box.close()


class TestIds:
    def test_each_start_begins_an_epoch_and_the_chain_goes_on(self, folder: Path) -> None:
        ids = []
        for _ in range(3):
            box = open_box(folder)
            ids.append(box.put(message()))
            box.close()
        box = open_box(folder)

        assert [0, 1, 2] == [(id_ >> 32) - (ids[0] >> 32) for id_ in ids]
        assert ids[2] == assert_chain(read_all(box))
        box.close()

    @pytest.mark.parametrize("lost", [["epoch"], ["ack"], ["epoch", "ack"]])
    def test_ids_do_not_repeat_when_files_are_lost(self, folder: Path, lost: list[str]) -> None:
        box = open_box(folder)
        before = box.put(message())
        box.close()
        for name in lost:
            (folder / name).unlink()
        box = open_box(folder)

        assert before >> 32 < box.put(message()) >> 32
        box.close()

    def test_a_wiped_folder_does_not_begin_with_ids_that_collectors_know(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent.outbox.epoch.time.time", lambda: 1_577_836_800 + 3600 * 1000)
        old = [open_box(folder / "old")]
        for _ in range(20):
            old[-1].close()
            old.append(open_box(folder / "old"))
        last = old[-1].put(message())
        old[-1].close()
        monkeypatch.setattr("agent.outbox.epoch.time.time", lambda: 1_577_836_800 + 3600 * 1021)
        new = open_box(folder / "new")

        assert last < new.put(message())
        new.close()

    def test_a_folder_from_an_image_of_the_card_does_not_give_ids_that_collectors_know(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent.outbox.epoch.time.time", lambda: 1_577_836_800 + 3600 * 1000)
        open_box(folder).close()
        shutil.copytree(folder, folder.with_name("image"))
        for _ in range(20):
            box = open_box(folder)
            last = box.put(message())
            box.close()
        monkeypatch.setattr("agent.outbox.epoch.time.time", lambda: 1_577_836_800 + 3600 * 1021)
        again = open_box(folder.with_name("image"))

        assert last < again.put(message())
        again.close()

    @pytest.mark.parametrize("unix_s", [0.0, 1e12])
    def test_an_absurd_clock_at_the_first_start_leaves_epochs_enough(
        self, folder: Path, unix_s: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("agent.outbox.epoch.time.time", lambda: unix_s)
        box = open_box(folder)

        assert 1 <= box.put(message()) >> 32 <= EPOCH_LIMIT // 2 + 1
        box.close()

    def test_the_ids_of_an_epoch_can_run_out(self, folder: Path) -> None:
        box = open_box(folder)
        box._next += 2**32 - 3
        ids = [box.put(message(str(number))) for number in range(5)]

        assert [0, 0, 1, 1, 1] == [(id_ >> 32) - (ids[0] >> 32) for id_ in ids]
        assert ["0", "1", "2", "3", "4"] == texts(read_all(box))
        assert 5 == box.stats().pending
        box.close()
        box = open_box(folder)
        assert (ids[-1] >> 32) + 1 == box.put(message()) >> 32
        box.close()

    def test_when_all_epochs_are_used_up_it_says_so(self, folder: Path) -> None:
        open_box(folder).close()
        (folder / "epoch").write_text(f"{EPOCH_LIMIT - 1}\n")

        with pytest.raises(OutboxError, match=r"outbox\.dir: .*/outbox: all its epochs are used up"):
            open_box(folder)

    def test_the_epoch_of_either_file_counts(self, folder: Path) -> None:
        open_box(folder).close()
        ackfile = AckFile(folder / "ack")
        assert ackfile.state is not None
        assert f"{ackfile.state.epoch}\n" == (folder / "epoch").read_text()
        ackfile.save(ackfile.state._replace(epoch=700_000))
        ackfile.close()
        box = open_box(folder)

        assert 700_001 == box.put(message()) >> 32
        box.close()


class TestClose:
    def test_a_closed_outbox_refuses(self, folder: Path) -> None:
        box = open_box(folder)
        box.put(message())
        box.close()
        box.close()

        with pytest.raises(OutboxError, match="closed"):
            box.put(message())
        assert [] == box.next(0, 10, 1000)

    def test_it_leaves_no_file_open(self, folder: Path) -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        box = open_box(folder)
        box.put(message())
        read_all(box)
        box.close()

        assert before == len(list(Path("/proc/self/fd").iterdir()))


class TestStats:
    def test_they_count_what_waits(self, folder: Path) -> None:
        clocks = Clocks()
        box = open_box(folder, now=clocks)
        assert (0, 0, 0, 0, 0.0) == box.stats()
        for number in range(4):
            box.put(message(str(number)))
            clocks.run(10)

        stats = box.stats()
        assert (4, 40.0) == (stats.pending, stats.oldest_age_s)
        assert sum(path.stat().st_size for path in folder.glob("*.seg")) == stats.bytes
        box.ack(box.next(0, 1, 1000)[0].id)
        assert (3, 30.0) == (box.stats().pending, box.stats().oldest_age_s)
        box.ack(read_all(box)[-1].id)
        assert (0, 0.0) == (box.stats().pending, box.stats().oldest_age_s)
        box.close()

    def test_a_jump_of_the_clock_does_not_make_messages_old(self, folder: Path) -> None:
        clocks = Clocks(unix_s=0.0)
        box = open_box(folder, now=clocks)
        box.put(message())
        clocks.run(5)
        clocks.unix_s += 50 * 365 * 86400

        assert 5.0 == box.stats().oldest_age_s
        box.close()
