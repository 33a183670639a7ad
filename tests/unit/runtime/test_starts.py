"""The guard against crash loops counts starts that did not last."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.runtime.starts import REVERT_AFTER, SAFE_MODE_AFTER, StartCounter
from tests.sim.bundles import ROOT


def test_the_first_start_is_one(tmp_path: Path) -> None:
    assert StartCounter(tmp_path).begin() == 1


def test_starts_that_did_not_last_add_up(tmp_path: Path) -> None:
    assert [StartCounter(tmp_path).begin() for _ in range(8)] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_good_start_makes_the_next_the_first_again(tmp_path: Path) -> None:
    StartCounter(tmp_path).begin()
    counter = StartCounter(tmp_path)
    assert counter.begin() == 2
    counter.good()
    counter.good()
    assert [StartCounter(tmp_path).begin() for _ in range(2)] == [1, 2]


def test_a_configuration_that_was_mended_begins_anew(tmp_path: Path) -> None:
    """Who has typed the name of a clip wrong six times does not have to wait for ten minutes when it is right."""
    assert [StartCounter(tmp_path, "clip: dor.mp4").begin() for _ in range(2)] == [1, 2]
    assert [StartCounter(tmp_path, "clip: door.mp4").begin() for _ in range(2)] == [1, 2]
    assert StartCounter(tmp_path, "clip: dor.mp4").begin() == 1


def test_a_start_counts_although_the_process_is_killed_at_once(tmp_path: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from agent.runtime.starts import StartCounter
StartCounter(Path({str(tmp_path)!r})).begin()
os.kill(os.getpid(), signal.SIGKILL)
"""
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
        assert done.returncode == -signal.SIGKILL
    assert StartCounter(tmp_path).begin() == 3


@given(st.binary(max_size=400))
def test_a_damaged_file_counts_as_none(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "starts").write_bytes(data)
        assert StartCounter(Path(folder)).begin() == 1
        assert StartCounter(Path(folder)).begin() == 2


def test_any_flipped_bit_is_noticed(tmp_path: Path) -> None:
    for _ in range(5):
        StartCounter(tmp_path).begin()
    sealed = (tmp_path / "starts").read_bytes()
    for position in range(len(sealed) - 1):  # the newline at the end says nothing
        for bit in range(8):
            damaged = bytearray(sealed)
            damaged[position] ^= 1 << bit
            (tmp_path / "starts").write_bytes(damaged)
            assert StartCounter(tmp_path).begin() == 1


@pytest.mark.parametrize("what", ["no folder", "a folder in its place", "a folder that can't be written"])
def test_a_disk_that_cannot_be_written_does_not_stop_the_agent(tmp_path: Path, what: str) -> None:
    folder = tmp_path / "outbox"
    if what == "a folder in its place":
        (folder / "starts").mkdir(parents=True)
    elif what == "a folder that can't be written":
        folder = Path("/proc/self")  # for root too
    counter = StartCounter(folder)
    assert [counter.begin() for _ in range(3)] == [1, 1, 1]
    counter.good()


def test_what_a_killed_writer_left_is_taken_away(tmp_path: Path) -> None:
    (tmp_path / ".starts.4711.tmp").write_bytes(b"torn")
    StartCounter(tmp_path).begin()
    assert [path.name for path in tmp_path.iterdir()] == ["starts"]


def test_taking_a_model_back_gets_its_chance_before_safe_mode() -> None:
    assert 1 < REVERT_AFTER < SAFE_MODE_AFTER
