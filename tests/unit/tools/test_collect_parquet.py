"""Parquet files of a collector: what pyarrow reads in them, once each, whatever happened between."""

import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.collect_messages import Numbered, Picture
from tools.collect_parquet import ParquetStore
from tools.collect_report import make_report
from tools.collect_store import open_store
from tools.operator_login import OperatorError

pytest.importorskip("pyarrow")
NOON = datetime(2026, 11, 27, 12, 59, tzinfo=UTC)
ONE = datetime(2026, 11, 27, 13, 0, tzinfo=UTC)
EPOCH = 1 << 32


def numbered(seq: int, prev: int | None = None, *, stream: str = "results/a", device: str = "cam-1") -> Numbered:
    time = "2026-11-27T12:00:00.250Z"
    payload = json.dumps({"seq": seq})
    before = seq - 1 if prev is None else prev
    topic = f"edge/devices/{device}/{stream}"
    return Numbered(device, seq, before, topic, "edge.result/1", time, payload, repeated=False)


def read(folder: Path, kind: str = "messages") -> Any:
    """All files as a table, with the columns that the folders' names make."""
    from pyarrow import dataset

    return dataset.dataset(folder / kind, partitioning="hive").to_table()


def seqs(folder: Path) -> list[int]:
    return sorted(read(folder).column("seq").to_pylist()) if (folder / "messages").exists() else []


class Now:
    """A clock that stands where it was put."""

    def __init__(self) -> None:
        self.at = NOON

    def __call__(self) -> datetime:
        return self.at


def test_files_lie_by_stream_and_hour_and_have_typed_columns(tmp_path: Path) -> None:
    now = Now()
    store = ParquetStore(tmp_path, roll_bytes=1 << 30, now=now)
    store.put([numbered(1), numbered(2, stream="events/a"), numbered(3)], {})
    store.tend()
    assert not (tmp_path / "messages").exists()
    now.at = ONE
    store.put([numbered(4)], {})

    table = read(tmp_path)
    assert sorted({path.parent.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.parquet")}) == [
        "messages/stream=events/date=2026-11-27/hour=12",
        "messages/stream=results/date=2026-11-27/hour=12",
    ]
    assert sorted(zip(table.column("seq").to_pylist(), table.column("stream").to_pylist(), strict=True)) == [
        (1, "results"),
        (2, "events"),
        (3, "results"),
    ]
    assert table.column("time").to_pylist()[0] == datetime(2026, 11, 27, 12, 0, 0, 250_000, tzinfo=UTC)
    assert json.loads(table.column("payload").to_pylist()[0])["seq"] == table.column("seq").to_pylist()[0]
    store.close()


def test_an_hour_with_much_gets_several_files(tmp_path: Path) -> None:
    store = ParquetStore(tmp_path, roll_bytes=20_000, now=Now())
    for first in range(1, 1001, 100):
        store.put([numbered(seq) for seq in range(first, first + 100)], {})
    written = seqs(tmp_path)

    assert 1 < len(list(tmp_path.rglob("*.parquet"))) < 10
    assert written == list(range(1, len(written) + 1))
    store.close()


def test_a_picture_is_written_once_however_often_it_comes(tmp_path: Path) -> None:
    picture = Picture("cam-1", "edge/devices/cam-1/snapshots/a", "e1", "not a time", b"\xff\xd8\x00")
    store = ParquetStore(tmp_path, roll_bytes=-1, now=Now())
    for _ in range(3):
        store.put([picture, numbered(1)], {})

    table = read(tmp_path, "pictures")
    assert (table.column("jpeg").to_pylist(), table.column("captured_at").to_pylist()) == ([b"\xff\xd8\x00"], [None])
    assert seqs(tmp_path) == [1]
    store.close()


def test_killed_between_the_files_and_the_journal_no_message_is_in_two_files(tmp_path: Path) -> None:
    now = Now()
    store = ParquetStore(tmp_path, roll_bytes=1 << 30, now=now)
    store.put([numbered(1), numbered(2)], {})
    store._run("BEGIN IMMEDIATE")
    store._roll()
    store.close()  # without a commit, as kill -9 does it
    assert seqs(tmp_path) == [1, 2]

    store = ParquetStore(tmp_path, roll_bytes=1 << 30, now=now)
    assert store.put([numbered(2), numbered(3)], {}).duplicates == 1
    now.at = ONE
    store.tend()

    assert seqs(tmp_path) == [1, 2, 3]
    store.close()


def test_what_can_not_be_written_is_one_line_and_nothing_is_lost(tmp_path: Path) -> None:
    store = ParquetStore(tmp_path, roll_bytes=-1, now=Now())
    store.put([numbered(1)], {})
    (tmp_path / "messages").write_text("in the way")
    with pytest.raises(OperatorError, match=r"--store parquet:.*: (Not a directory|File exists)"):
        store.tend()
    store.close()
    (tmp_path / "messages").unlink()
    store = ParquetStore(tmp_path, roll_bytes=-1, now=Now())
    store.tend()

    assert seqs(tmp_path) == [1]
    assert not list(tmp_path.rglob("*.tmp"))
    store.close()


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 2**32), loss=st.sampled_from([0.0, 0.05, 0.3]))
def test_it_says_the_same_as_a_database(tmp_path_factory: pytest.TempPathFactory, seed: int, loss: float) -> None:
    """Of devices that repeat, lose and reorder messages, announce gaps and have power cuts."""
    rng = random.Random(seed)
    folder = tmp_path_factory.mktemp("stores")
    sqlite = open_store(f"sqlite:{folder / 'a.db'}")
    parquet = ParquetStore(folder, roll_bytes=rng.choice([-1, 4096]), now=Now())
    for batch in make_batches(rng, loss):
        assert parquet.put(batch, {}) == sqlite.put(batch, {})

    assert make_report(parquet) == make_report(sqlite)
    stored = sqlite._run("SELECT seq FROM messages").fetchall()
    parquet._roll_bytes = -1
    parquet.tend()
    assert seqs(folder) == sorted(seq for (seq,) in stored)
    sqlite.close()
    parquet.close()


def make_batches(rng: random.Random, loss: float) -> list[list[Numbered]]:
    batches = []
    chain: list[Numbered] = []
    for device in ("cam-1", "cam-2"):
        seq = 0
        for _ in range(rng.randint(1, 60)):
            prev, step = seq, rng.choice([1, 1, 1, 1, 2, EPOCH])
            seq = (seq + EPOCH >> 32 << 32) + 1 if step == EPOCH else seq + step
            if rng.random() < 0.1:
                text = '{"count":1,"reason":"max_bytes"}'
                topic = f"edge/devices/{device}/gap"
                at = max(0, prev - rng.randint(0, 2))
                chain.append(Numbered(device, seq, at, topic, "edge.gap/1", "", text, repeated=False))
            else:
                chain.append(numbered(seq, prev, device=device))
    sent = [message for message in chain if rng.random() >= loss]
    while sent:
        batch = sent[: rng.randint(1, 20)]
        sent = sent[rng.randint(1, len(batch)) :]  # some come again
        rng.shuffle(batch)
        batches.append(batch)
    return batches + [[message] for message in chain if rng.random() < 0.3]
