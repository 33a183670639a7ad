"""Receiving against a broker in a few lines, which may answer, lie, say nothing, refuse and go away."""

import hashlib
import random
import resource
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import UpdateFailed
from agent.updates.partfile import SYNC_BYTES, PartFile
from agent.updates.pull import LEAVE_TOGETHER, PAUSE_RATIO, SLOW_S, WINDOW, Pace
from agent.updates.receive import ChunkBox, Transfer
from agent.wire.releases import CHUNK_BYTES, DIGEST_BYTES, Archive
from agent.wire.topics import Topics
from tests.broker.puller import archive_of, cut_up, list_of
from tests.power.outbox_disk import make_image, mounted, tmpfs

TOPICS = Topics("edge", "cam-1")
DATA = random.Random(1).randbytes(6 * CHUNK_BYTES + 100)
CHUNKS, ARCHIVE = cut_up(DATA), archive_of(DATA)


class Blobs:
    """The wires, with the broker at their end."""

    def __init__(self, data: bytes = DATA) -> None:
        self.box = ChunkBox()
        self.connects, self.connected = 1, True
        self.denied: dict[str, str] = {}
        self.asked: list[str] = []
        self.held: set[str] = set()
        self.most_held = 0
        archive = archive_of(data)
        blobs = {archive.sha256: data, archive.chunk_list_sha256: list_of(data)}
        self.retained = {
            TOPICS.chunk(sha256, index): chunk
            for sha256, blob in blobs.items()
            for index, chunk in enumerate(cut_up(blob))
        }
        self.answer: Callable[[str], bytes | None] = self.retained.get

    def want(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self.asked.append(topic)
            self.held.add(topic)
            self.most_held = max(self.most_held, len(self.held))
            if (payload := self.answer(topic)) is not None:
                self.box.put(topic, payload)

    def unwant(self, topics: Iterable[str]) -> None:
        self.held.difference_update(topics)

    def transfer(self, folder: Path, archive: Archive = ARCHIVE, retry_s: float = 0, stall_s: float = 9) -> Transfer:
        return Transfer(archive, folder, TOPICS, self, self.box, retry_s=retry_s, stall_s=stall_s)


def finish(transfer: Transfer) -> None:
    while not transfer.step(1.0, lambda: False):
        pass
    transfer.close()


def chunk_topic(index: int) -> str:
    return TOPICS.chunk(ARCHIVE.sha256, index)


@pytest.fixture
def blobs() -> Blobs:
    return Blobs()


# --- the good case ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_any_size_arrives(tmp_path: Path, size: int):
    data = DATA[:size]
    blobs = Blobs(data)
    transfer = blobs.transfer(tmp_path / "new" / "folder", archive_of(data))
    finish(transfer)
    assert transfer.part_path.read_bytes() == data
    assert transfer.part_path.name == f"{hashlib.sha256(data).hexdigest()}.part"
    assert blobs.held == set()


def test_a_list_of_several_chunks_is_right_or_wrong_as_a_whole(tmp_path: Path):
    """As that of an archive of more than 128 MiB."""
    count = CHUNK_BYTES // DIGEST_BYTES + 5
    whole = hashlib.sha256(bytes(CHUNK_BYTES)).digest() * count
    archive = Archive(
        sha256="0" * 64, size_bytes=count * CHUNK_BYTES, chunk_list_sha256=hashlib.sha256(whole).hexdigest()
    )
    right = {TOPICS.chunk(archive.chunk_list_sha256, index): part for index, part in enumerate(cut_up(whole))}
    blobs, path = Blobs(), tmp_path / f"{archive.sha256}.list"
    blobs.retained.update({topic: bytes(len(part)) for topic, part in right.items()})
    transfer = blobs.transfer(tmp_path, archive)
    assert not transfer.step(9.0, lambda: transfer.bad_chunks > 0)
    assert not path.exists()
    blobs.retained.update(right)
    assert not transfer.step(9.0, path.exists)
    assert path.read_bytes() == whole
    transfer.close()


def test_few_topics_are_subscribed_to_at_a_time(tmp_path: Path):
    data = random.Random(3).randbytes(5 * LEAVE_TOGETHER * CHUNK_BYTES)
    blobs = Blobs(data)
    finish(blobs.transfer(tmp_path, archive_of(data)))
    assert blobs.most_held <= WINDOW + LEAVE_TOGETHER


def test_a_step_ends_when_it_is_interrupted_or_its_time_is_over(tmp_path: Path, blobs: Blobs):
    transfer = blobs.transfer(tmp_path)
    turns = 0
    while not transfer.step(0.0, lambda: False):
        turns += 1
    assert turns > len(CHUNKS)
    blobs.answer = lambda _: None
    waiting = Blobs().transfer(tmp_path / "other")
    assert not waiting.step(60.0, lambda: True)


def test_what_was_there_is_not_fetched_again(tmp_path: Path, blobs: Blobs):
    transfer = blobs.transfer(tmp_path)
    finish(transfer)
    with transfer.part_path.open("r+b") as file:
        file.seek(4 * CHUNK_BYTES + 7)
        file.write(b"torn")
    blobs.asked.clear()
    finish(blobs.transfer(tmp_path))
    assert blobs.asked == [chunk_topic(4)]
    assert transfer.part_path.read_bytes() == DATA


def test_a_damaged_list_on_the_disk_is_fetched_again(tmp_path: Path, blobs: Blobs):
    finish(blobs.transfer(tmp_path))
    (tmp_path / f"{ARCHIVE.sha256}.list").write_bytes(list_of(DATA)[:-1] + b"?")
    blobs.asked.clear()
    finish(blobs.transfer(tmp_path))
    assert blobs.asked == [TOPICS.chunk(ARCHIVE.chunk_list_sha256, 0)]


@pytest.mark.parametrize("size", [0, 5, len(DATA) + 5])
def test_a_part_file_of_another_size_is_set_right(tmp_path: Path, blobs: Blobs, size: int):
    path = tmp_path / f"{ARCHIVE.sha256}.part"
    path.write_bytes((DATA + b"extra")[:size])
    finish(blobs.transfer(tmp_path))
    assert path.read_bytes() == DATA


# --- the broker does not do what it should ----------------------------------------------------------------------------


def test_after_a_reconnect_what_was_on_its_way_is_asked_for_again(tmp_path: Path, blobs: Blobs):
    transfer = blobs.transfer(tmp_path, retry_s=60.0)
    blobs.answer = lambda topic: None if topic == chunk_topic(3) else blobs.retained[topic]
    assert not transfer.step(9.0, lambda: transfer.received_bytes == len(DATA) - CHUNK_BYTES)
    assert not transfer.step(0.05, lambda: False)
    assert blobs.asked.count(chunk_topic(3)) == 1
    blobs.connected = False
    blobs.answer = blobs.retained.get
    assert not transfer.step(0.05, lambda: False)
    blobs.connects, blobs.connected = 2, True
    finish(transfer)
    assert blobs.asked.count(chunk_topic(3)) == 2


def test_without_a_connection_nothing_is_asked_and_nothing_fails(tmp_path: Path, blobs: Blobs):
    blobs.connected = False
    transfer = blobs.transfer(tmp_path, stall_s=0.01)
    assert not transfer.step(0.3, lambda: False)
    assert blobs.asked == []


def test_a_missing_chunk_is_named(tmp_path: Path, blobs: Blobs):
    del blobs.retained[chunk_topic(5)]
    transfer = blobs.transfer(tmp_path, stall_s=0.05)
    with pytest.raises(UpdateFailed, match=rf"chunk 5 does not come.*{chunk_topic(5)} on the broker") as caught:
        finish(transfer)
    assert caught.value.reason_code == "missing_chunks"
    assert blobs.held == set()


def test_only_wrong_bytes_are_in_the_end_a_missing_chunk(tmp_path: Path, blobs: Blobs):
    blobs.retained[chunk_topic(5)] = bytes(CHUNK_BYTES)
    transfer = blobs.transfer(tmp_path, retry_s=0.05, stall_s=0.4)
    with pytest.raises(UpdateFailed, match="chunk 5 does not come, or with other bytes"):
        finish(transfer)
    assert transfer.bad_chunks > 1


def test_a_refused_subscription_is_not_waited_out(tmp_path: Path, blobs: Blobs):
    blobs.answer = lambda topic: blobs.denied.update({topic: "not authorized"})
    with pytest.raises(UpdateFailed, match="not authorized; see the broker's access list"):
        finish(blobs.transfer(tmp_path, retry_s=60.0, stall_s=60.0))


ANSWERS: dict[str, Callable[[bytes], bytes | None]] = {
    "right": lambda right: right,
    "wrong": lambda right: bytes(len(right)),
    "other chunk": lambda _: CHUNKS[0],
    "short": lambda right: right[:-1],
    "long": lambda right: right + b"x",
    "empty": lambda _: b"",
    "none": lambda _: None,
    "cut": lambda _: None,
}


@settings(max_examples=150, deadline=None)
@given(
    answers=st.lists(st.sampled_from(["right", *ANSWERS])),
    had=st.lists(st.booleans(), min_size=len(CHUNKS), max_size=len(CHUNKS)),
)
def test_whatever_a_broker_does_only_signed_bytes_are_written(answers: list[str], had: list[bool]):
    blobs, script = Blobs(), iter(answers)

    def answer(topic: str) -> bytes | None:
        word = next(script, "right")
        blobs.connects += word == "cut"
        return ANSWERS[word](blobs.retained[topic])

    blobs.answer = answer
    before = [chunk if there else bytes(len(chunk)) for chunk, there in zip(CHUNKS, had, strict=True)]
    with tempfile.TemporaryDirectory() as folder:
        part = Path(folder) / f"{ARCHIVE.sha256}.part"
        part.write_bytes(b"".join(before))
        transfer = blobs.transfer(Path(folder))
        while not transfer.step(0.0, lambda: False):
            for chunk, there in zip(CHUNKS, cut_up(part.read_bytes()), strict=True):
                assert there in (chunk, bytes(len(chunk)))
        transfer.close()
        assert part.read_bytes() == DATA
    assert blobs.held == set()


# --- the box and the pace ---------------------------------------------------------------------------------------------


def test_the_box_keeps_one_message_for_each_topic_that_is_awaited():
    box = ChunkBox()
    box.put("a", b"nobody asked")
    box.expect(["a", "b"])
    for payload in (b"1", b"2"):
        box.put("a", payload)
    box.put("c", b"nobody asked")
    assert box.dropped == 3
    assert box.take(["b"], 0.0) is None
    first = box.take(["b", "a"], 0.0)
    assert first is not None
    assert first[:2] == ("a", b"1")
    assert box.take(["b", "a"], 0.0) is None
    box.put("b", b"3")
    box.forget(["b"])
    assert box.take(["b"], 0.0) is None


def test_a_slow_link_gets_one_chunk_at_a_time_and_pauses_and_a_hiccup_does_not_make_it_slow():
    pace = Pace()
    assert pace.window == 1, "nothing is known of it yet"
    pace.took(2 * SLOW_S, 100.0)
    assert pace.window == 1
    assert pace.pause_until_s == 100.0 + PAUSE_RATIO * 2 * SLOW_S
    for now_s, chunk_s in enumerate([0.001, 1.0, 1.0], start=200):
        pace.took(chunk_s, now_s)
        assert pace.window == 2
        assert pace.pause_until_s < 200
    pace.took(1.0, 300.0)
    assert (pace.window, pace.pause_until_s) == (1, 300.0 + PAUSE_RATIO)


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["tmpfs", "ext4"])
def small_disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system with room for some chunks."""
    if request.param == "tmpfs":
        with tmpfs(tmp_path / "disk", 1) as at:
            yield at
    else:
        with mounted(make_image(tmp_path / "disk.img", 8), tmp_path / "disk") as loop:
            yield loop.at


def test_a_full_disk_shows_before_the_first_chunk_and_keeps_nothing(small_disk: Path):
    data = bytes(16 << 20)
    blobs = Blobs(data)
    with pytest.raises(UpdateFailed) as caught:
        finish(blobs.transfer(small_disk, archive_of(data)))
    assert caught.value.reason_code == "no_space"
    assert list(small_disk.glob("*.part")) == []
    assert len(blobs.asked) == 1, "the list"


@pytest.mark.parametrize("name", [f"{ARCHIVE.sha256}.part", f"{ARCHIVE.sha256}.list"])
def test_what_can_not_be_read_or_written_is_a_failure_of_the_storage(tmp_path: Path, blobs: Blobs, name: str):
    (tmp_path / name).mkdir()
    with pytest.raises(UpdateFailed, match=str(tmp_path)) as caught:
        finish(blobs.transfer(tmp_path))
    assert caught.value.reason_code == "storage"


def test_a_link_in_place_of_the_part_file_is_not_followed(tmp_path: Path, blobs: Blobs):
    (tmp_path / "victim").write_bytes(b"mine")
    (tmp_path / f"{ARCHIVE.sha256}.part").symlink_to(tmp_path / "victim")
    with pytest.raises(UpdateFailed):
        finish(blobs.transfer(tmp_path))
    assert (tmp_path / "victim").read_bytes() == b"mine"


def test_after_an_error_the_next_step_begins_anew(tmp_path: Path, blobs: Blobs):
    transfer = blobs.transfer(tmp_path)
    assert not transfer.step(9.0, lambda: transfer.received_bytes >= 2 * CHUNK_BYTES)
    (tmp_path / "elsewhere").mkdir()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # Python ignores SIGXFSZ; writing gives EFBIG
    try:
        with pytest.raises(UpdateFailed) as caught:
            finish(transfer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.reason_code == "storage"
    finish(transfer)
    assert transfer.part_path.read_bytes() == DATA


def test_a_part_that_could_not_be_synced_is_not_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """After a failed sync the kernel shows bytes that may not be on the disk."""
    data = bytes(SYNC_BYTES)
    path = tmp_path / "x.part"

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    *chunks, last = enumerate(cut_up(data))
    with PartFile(path, archive_of(data), list_of(data)) as part:
        monkeypatch.setattr("os.fdatasync", fail)
        for index, chunk in chunks:
            assert part.put(index, chunk)
        with pytest.raises(OSError, match="Input/output"):
            part.put(*last)
    assert not path.exists()
