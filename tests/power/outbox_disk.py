"""File systems of one's own: small enough to fill, and with a block device that can lose its power."""

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

MEBIBYTE = 1 << 20


def _run(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def _run_or_skip(*command: str | Path) -> str:
    """Also where CI is set: not every machine lets a test mount."""
    try:
        return _run(*command)
    except (OSError, subprocess.CalledProcessError) as exc:
        pytest.skip(f"{command[0]} does not work here: {getattr(exc, 'stderr', '') or exc}")


def _unmount(at: Path) -> None:
    """Also when a test failed and left files open."""
    try:
        _run("umount", at)
    except subprocess.CalledProcessError:
        _run("umount", "--lazy", at)


def make_image(path: Path, size_mib: int) -> Path:
    """An ext4 file system in a file, as on a card: blocks of 4 KiB, a journal, nothing left to do in the background."""
    if os.getuid() != 0:
        pytest.skip("only root can mount")
    with path.open("wb") as file:
        file.truncate(size_mib * MEBIBYTE)
    _run_or_skip("mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0", path)
    return path


class LoopDisk:
    """An image, mounted through a loop device."""

    def __init__(self, image: Path, at: Path) -> None:
        self.image, self.at = image, at
        self.device = Path(_run_or_skip("losetup", "--find", "--show", image))
        at.mkdir(exist_ok=True)
        try:
            _run_or_skip("mount", "-t", "ext4", self.device, at)
        except BaseException:
            _run("losetup", "--detach", self.device)
            raise

    def written_bytes(self) -> int:
        """What reached the block device since it was made, journal and all."""
        return int(self._counters()[6]) * 512

    def _counters(self) -> list[str]:
        return Path("/sys/block", self.device.name, "stat").read_text().split()

    def copy_as_after_a_power_cut(self, to: Path) -> Path:
        """What the device holds, taken while nothing is written to it: the page cache is left behind."""
        deadline_s = time.monotonic() + 30
        while time.monotonic() < deadline_s:
            before = self._counters()[:9]
            shutil.copyfile(self.image, to)
            in_flight = before[8]
            if in_flight == "0" and before == self._counters()[:9]:
                return to
        pytest.fail("the device does not come to rest")

    def close(self) -> None:
        _unmount(self.at)
        _run("losetup", "--detach", self.device)


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[LoopDisk]:
    """Mounts an image; ext4 replays its journal then."""
    disk = LoopDisk(image, at)
    try:
        yield disk
    finally:
        disk.close()


@contextlib.contextmanager
def tmpfs(at: Path, size_mib: int) -> Iterator[Path]:
    if os.getuid() != 0:
        pytest.skip("only root can mount")
    at.mkdir()
    _run_or_skip("mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", at)
    try:
        yield at
    finally:
        _unmount(at)
