"""What is wrong with the folder is said in one line that names it, the key, and the mend."""

import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import OutboxError
from tests.unit.outbox.support import message, open_box, read_all, texts


def refusal(folder: Path) -> str:
    with pytest.raises(OutboxError) as caught:
        open_box(folder)
    text = str(caught.value)
    assert text.startswith("outbox.dir: ")
    assert "\n" not in text
    return text


def test_the_folder_is_made(tmp_path: Path) -> None:
    open_box(tmp_path / "a" / "b").close()

    assert {"ack", "epoch", "lock"} == {path.name for path in (tmp_path / "a" / "b").iterdir()}


def test_a_file_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "outbox"
    path.write_text("")

    assert f"outbox.dir: {path}: file exists; name a folder, or move the file away" == refusal(path)


def test_a_file_in_its_way(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "outbox"

    assert f"outbox.dir: {path}: not a directory; name a folder, or move the file away" == refusal(path)


def test_a_place_where_nothing_can_be_made() -> None:
    assert "/proc/edge-agent/outbox: no such file" in refusal(Path("/proc/edge-agent/outbox"))


def test_a_folder_in_the_place_of_one_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "ack").mkdir()

    assert f"outbox.dir: {tmp_path}: is a directory; mend that, or name another folder" == refusal(tmp_path)


def test_two_agents_can_not_share_it(tmp_path: Path) -> None:
    box = open_box(tmp_path)
    box.put(message("a"))

    assert f"outbox.dir: {tmp_path} is used by another agent; stop it, or name another folder" == refusal(tmp_path)
    assert ["a"] == texts(read_all(box))
    box.close()
    open_box(tmp_path).close()


def test_a_user_without_the_right(tmp_path: Path) -> None:
    """In a process of another user: root may write everywhere."""
    folder = tmp_path / "outbox"
    open_box(folder).close()
    folder.chmod(0o500)
    script = (
        "import os, pathlib, sys; from tests.unit.outbox.support import open_box;"
        "os.getuid() or (os.setgroups([]), os.setgid(65534), os.setuid(65534));"
        "open_box(pathlib.Path(sys.argv[1]))"
    )
    for parent in (tmp_path, *tmp_path.parents[:3]):
        parent.chmod(parent.stat().st_mode | 0o055)
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=False, timeout=60
    )

    assert (
        f"outbox.dir: {folder}: permission denied; make it a folder that this user may write to, or name another one"
        in done.stderr
    )
