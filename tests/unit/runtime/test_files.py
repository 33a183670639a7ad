"""Files that survive a power cut. (What the disk makes of it is tested in tests/power.)"""

import os
from pathlib import Path

import pytest

from agent.runtime.files import fsync_dir, write_atomic


def test_the_file_holds_the_new_bytes_and_nothing_else_is_left(tmp_path: Path):
    path = tmp_path / "state"
    write_atomic(path, b"old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [path] == list(tmp_path.iterdir())


def test_the_mode_is_private_unless_asked_otherwise(tmp_path: Path):
    write_atomic(tmp_path / "a", b"")
    write_atomic(tmp_path / "b", b"", mode=0o644)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o644 & ~_umask()


def test_the_old_file_stays_when_the_new_one_cannot_be_put_in_its_place(tmp_path: Path):
    path = tmp_path / "state"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomic(path, b"new")
    assert [path] == list(tmp_path.iterdir())


def test_the_old_file_stays_when_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "state"
    write_atomic(path, b"old")

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert [path] == list(tmp_path.iterdir())


def test_data_is_synced_before_the_rename_and_the_folder_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Rename without these lost the state in 59 of 60 simulated power cuts."""
    steps: list[str] = []
    fsync, replace = os.fsync, os.replace

    def traced_fsync(fd: int) -> None:
        steps.append("fsync folder" if Path(f"/proc/self/fd/{fd}").resolve().is_dir() else "fsync file")
        fsync(fd)

    def traced_replace(old: Path, new: Path) -> None:
        steps.append("rename")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(os, "replace", traced_replace)
    write_atomic(tmp_path / "state", b"x")
    assert steps == ["fsync file", "rename", "fsync folder"]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "no" / "state", b"x")
    with pytest.raises(FileNotFoundError):
        fsync_dir(tmp_path / "no")


def test_a_file_is_not_a_folder(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        fsync_dir(tmp_path / "file")


def test_no_descriptor_stays_open(tmp_path: Path):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(10):
        write_atomic(tmp_path / "state", b"x")
    assert before == len(list(Path("/proc/self/fd").iterdir()))


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
