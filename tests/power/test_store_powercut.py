"""A power cut at any moment of an update leaves a whole live bundle, a floor that has not sunk, and nothing behind.

As for the outbox: the writer is stopped, the quiet block device is copied, and the copy is mounted. The next writer
goes on there. Assumes a device that honours flushes.
"""

import os
import random
import signal
from pathlib import Path

import pytest

from tests.power.outbox_disk import make_image, mounted
from tests.power.store_writer import MODEL, Said, Writer, check, let_go_on, write_bundle


def test_three_power_cuts_leave_a_whole_model(tmp_path: Path) -> None:
    cut_many(tmp_path, 3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_sixty_power_cuts_leave_a_whole_model(tmp_path: Path) -> None:
    cut_many(tmp_path, 60)


def cut_many(folder: Path, times: int) -> None:
    rng = random.Random(times)
    image = make_image(folder / "disk0.img", 48)
    with mounted(image, folder / "mnt") as disk:
        write_bundle(disk.at / "models" / MODEL / "1.0-factory", "1.0", os.urandom(1000))
        (disk.at / "models" / MODEL / "current").write_text("1.0-factory\n")
    before, releases = Said(), 0
    for seed in range(times):
        with mounted(image, folder / "mnt") as disk:
            writer = Writer(disk.at / "models", seed)
            writer.listen(rng.randrange(1, 6))
            let_go_on(writer, rng)
            writer.stop(signal.SIGSTOP)
            after = disk.copy_as_after_a_power_cut(folder / f"disk{seed + 1}.img")
            writer.stop(signal.SIGKILL)
            said = writer.finish()
        image.unlink()
        image = after
        with mounted(image, folder / "mnt") as disk:
            record = check(disk.at / "models", before, said).record
            assert (disk.at / "models" / MODEL / "1.0-factory" / "model.tflite").exists()
        releases += said.releases
        before = Said(floor=record.floor, confirmed=max(before.confirmed, said.confirmed))
    print(f"{times} cuts, {releases} releases ended, floor {before.floor}, confirmed {before.confirmed}")
