"""`kill -9` at any moment of an update leaves a whole live bundle, a floor that has not sunk, and nothing behind."""

import os
import random
import signal
from pathlib import Path

import pytest

from tests.power.store_writer import MODEL, Said, Writer, check, let_go_on, write_bundle


def test_fifteen_kills_leave_a_whole_model(tmp_path: Path) -> None:
    kill_many(tmp_path, 15)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_kills_leave_a_whole_model(tmp_path: Path) -> None:
    kill_many(tmp_path, 200)


def kill_many(folder: Path, times: int) -> None:
    rng = random.Random(times)
    models_dir = folder / "models"
    write_bundle(models_dir / MODEL / "1.0-factory", "1.0", os.urandom(1000))
    (models_dir / MODEL / "current").write_text("1.0-factory\n")
    before, releases = Said(), 0
    for seed in range(times):
        writer = Writer(models_dir, seed)
        writer.listen(rng.randrange(1, 6))
        let_go_on(writer, rng)
        writer.stop(signal.SIGKILL)
        said = writer.finish()
        record = check(models_dir, before, said).record
        releases += said.releases
        before = Said(floor=record.floor, confirmed=max(before.confirmed, said.confirmed))
    assert (models_dir / MODEL / "1.0-factory" / "model.tflite").exists(), "what was made by hand stays"
    print(f"{times} kills, {releases} releases ended, floor {before.floor}, confirmed {before.confirmed}")
