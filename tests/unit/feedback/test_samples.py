"""The folder of kept frames: bounds, labels, and what a kill leaves."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.feedback.samples import BLOCK_BYTES, Note, SampleStore

SIZE = 2 * BLOCK_BYTES
"""On the disk, of a small sample."""


def note(number: int, **fields: object) -> Note:
    return Note(
        id=f"{number:016x}",
        device="cam-1",
        pipeline="door",
        captured_at=f"2026-11-27T10:00:{number % 60:02}.000Z",
        frame_index=number,
        reasons=("unsure",),
        model="digits",
        version="1",
        predicted="3",
        confidence=0.6,
        margin=0.1,
        suffix=".png",
        **fields,
    )


def ids(store: SampleStore) -> list[int]:
    return sorted(one.frame_index for one in store.unsent())


def test_is_there_again_after_a_restart(tmp_path: Path):
    store = SampleStore(tmp_path / "door", 10 * SIZE)
    assert store.put(note(1), b"one")
    store.change(note(1).id, label="7")
    again = SampleStore(tmp_path / "door", 10 * SIZE)
    ((kept, truth),) = again.labelled()
    assert (kept.frame_index, truth, again.read(kept)) == (1, "7", b"one")
    assert again.telemetry() == store.telemetry()


def test_what_somebody_else_has_put_there_stays(tmp_path: Path):
    """The folder is `samples.dir` and the pipeline's name: there may be pictures of one's own in it."""
    SampleStore(tmp_path, 10 * SIZE).put(note(1), b"one")
    (tmp_path / "2026").mkdir()
    others = [tmp_path / name for name in ("holiday.jpg", "labels.json", "notes.txt")]
    for path in others:
        path.write_text("mine")
    (tmp_path / f"{note(2).id}.png").write_bytes(b"half")
    assert ids(SampleStore(tmp_path, 10 * SIZE)) == [1]
    assert all(path.exists() for path in others)
    assert not (tmp_path / f"{note(2).id}.png").exists()


def test_half_of_a_sample_is_swept(tmp_path: Path):
    store = SampleStore(tmp_path, 10 * SIZE)
    store.put(note(1), b"one")
    store.put(note(2), b"two")
    (tmp_path / f"{note(1).id}.json").unlink()
    (tmp_path / f"{note(2).id}.png").rename(tmp_path / f".{note(2).id}.png.77.tmp")
    assert SampleStore(tmp_path, 10 * SIZE).unsent() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"id":"../../etc/passwd"}', b"\xff" * 100])
def test_what_is_no_note_is_swept(tmp_path: Path, text: bytes):
    (tmp_path / "0123456789abcdef.json").write_bytes(text)
    (tmp_path / "0123456789abcdef.png").write_bytes(b"x")
    assert SampleStore(tmp_path, SIZE).unsent() == []
    assert list(tmp_path.iterdir()) == []


def test_over_the_bound_what_was_sent_goes_first_and_labels_last(tmp_path: Path):
    store = SampleStore(tmp_path, 3 * SIZE)
    for number in (1, 2, 3):
        store.put(note(number), b"x")
    store.change(note(1).id, is_right=False)
    store.change(note(3).id, is_sent=True)
    store.put(note(4), b"x")
    assert ids(store) == [1, 2, 4]
    assert store.dropped == 0, "what was sent is no loss"
    store.put(note(5), b"x")
    assert ids(store) == [1, 4, 5]
    assert store.dropped == 1
    assert not store.put(note(6), bytes(4 * SIZE))
    assert ids(store) == [1, 4, 5]


def test_with_a_label_first_then_the_newest_is_sent(tmp_path: Path):
    store = SampleStore(tmp_path, 9 * SIZE)
    for number in range(4):
        store.put(note(number), b"x")
    store.change(note(1).id, label="1")
    assert [one.frame_index for one in store.unsent()] == [1, 3, 2, 0]


def test_a_right_answer_is_a_label_and_a_wrong_one_is_none(tmp_path: Path):
    store = SampleStore(tmp_path, 9 * SIZE)
    store.put(note(1), b"x")
    store.put(note(2), b"x")
    store.change(note(1).id, is_right=True)
    store.change(note(2).id, is_right=False)
    assert [truth for _, truth in store.labelled()] == ["3"]


def test_what_can_not_be_stored_leaves_nothing(tmp_path: Path):
    (tmp_path / "door").write_bytes(b"a file where the folder should be")
    store = SampleStore(tmp_path / "door", 9 * SIZE)
    with pytest.raises(OSError, match="exists"):
        store.put(note(1), b"x")
    assert store.telemetry().kept == 0


@given(sizes=st.lists(st.integers(1, 3 * BLOCK_BYTES), max_size=30), bound=st.integers(SIZE, 8 * SIZE))
@settings(max_examples=30, deadline=None)
def test_the_bound_holds_for_the_disk(tmp_path_factory: pytest.TempPathFactory, sizes: list[int], bound: int):
    folder = tmp_path_factory.mktemp("samples")
    store = SampleStore(folder, bound)
    for number, size in enumerate(sizes):
        store.put(note(number), bytes(size))
        blocks = sum(-(-path.stat().st_size // BLOCK_BYTES) * BLOCK_BYTES for path in folder.iterdir())
        assert blocks == store.telemetry().bytes <= bound
    assert SampleStore(folder, bound).telemetry().bytes == store.telemetry().bytes


def test_a_smaller_bound_holds_from_the_start(tmp_path: Path):
    store = SampleStore(tmp_path, 9 * SIZE)
    for number in range(6):
        store.put(note(number), b"x")
    again = SampleStore(tmp_path, 2 * SIZE)
    assert ids(again) == [4, 5]
    assert len(list(tmp_path.iterdir())) == 4
