"""A process that takes release after release as the updater does, until it is killed, and says what is durable.

`F n`: the floor is n; `C n`: release n is confirmed; `R n`: release n is taken back.
`python -m tests.power.store_writer MODELS_DIR SEED`. Also what checks and tests need: bundles and releases of them.
"""

import contextlib
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from agent.updates.record import Slot
from agent.updates.store import Candidate, ModelStore
from agent.wire.archive import write_archive
from agent.wire.releases import Release

REPOSITORY = Path(__file__).parents[2]
MODEL = "door"
MODEL_BYTES = 1_200_000
"""An orphan of this size would be noticed."""

_MANIFEST = """\
name: {name}
version: "{version}"
task: classify
input: {{width_px: 8, height_px: 8}}
decoder: {{type: classify}}
"""


def write_bundle(folder: Path, version: str, content: bytes, *, name: str = MODEL, more: str = "") -> Path:
    """A bundle as far as the store looks at it; returns its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.yaml").write_text(_MANIFEST.format(name=name, version=version) + more, encoding="utf-8")
    (folder / "labels.txt").write_text("cat\ndog\n", encoding="utf-8")
    (folder / "model.tflite").write_bytes(content)
    return folder


def pack(bundle: Path, part: Path, number: int, version: str, **parts: Any) -> Release:
    """Write a bundle's archive to `part`; gives a release of it, as if it had been verified."""
    with part.open("wb") as file:
        sha256, size = write_archive(bundle, file)
    archive = {"sha256": sha256, "size_bytes": size, "chunk_list_sha256": "0" * 64}
    fields = {"fleet": "f", "model": MODEL, "created": "2026-01-01T00:00:00Z", "archive": archive}
    return msgspec.convert({**fields, "release": number, "version": version, **parts}, Release)


def offer(store: ModelStore, release: Release, envelope: bytes = b"{}") -> None:
    """Accept a release: the floor is raised."""
    archive = release.archive
    candidate = Candidate(
        envelope, release.release, release.version, archive.sha256, archive.size_bytes, state="receiving"
    )
    store.save(candidate=candidate, floor=release.release, floor_sha256=archive.sha256)


def change(store: ModelStore, **changes: Any) -> Slot:
    """Change the candidate; gives its slot."""
    assert store.record.candidate
    candidate = msgspec.structs.replace(store.record.candidate, **changes)
    store.save(candidate=candidate)
    assert candidate.slot
    return candidate.slot


def confirm(store: ModelStore) -> None:
    """The candidate has proved itself."""
    assert store.record.candidate
    live = store.record.live
    store.save(live=store.record.candidate.slot, previous=live)
    store.mirror(store.record.live, store.record.previous)
    store.collect_garbage()


class Said(msgspec.Struct):
    """What a writer said so far."""

    floor: int = 0
    confirmed: int = 0
    releases: int = 0
    """That came to an end."""


class Writer:
    """The process, seen from the test."""

    def __init__(self, models_dir: Path, seed: int) -> None:
        command = [sys.executable, "-m", "tests.power.store_writer", str(models_dir), str(seed)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=REPOSITORY)
        self.said = Said()

    def listen(self, lines: int) -> None:
        """To so many lines."""
        assert self.process.stdout
        for _ in range(lines):
            line = self.process.stdout.readline()
            assert line, f"the writer ended with {self.process.wait(10)}"
            self._hear(line)

    def stop(self, number: int) -> None:
        """Send a signal: SIGSTOP or SIGKILL."""
        self.process.send_signal(number)

    def finish(self) -> Said:
        """After a kill: everything that it said."""
        assert self.process.stdout
        for line in self.process.stdout:
            if line.endswith(b"\n"):
                self._hear(line)
        self.process.stdout.close()
        self.process.wait(30)
        return self.said

    def _hear(self, line: bytes) -> None:
        kind, number = line.split()
        if kind == b"F":
            self.said.floor = int(number)
        else:
            self.said.releases += 1
            if kind == b"C":
                self.said.confirmed = int(number)


def let_go_on(writer: Writer, rng: random.Random) -> None:
    """For a random part of the time that one release takes: the end comes somewhere between two lines."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        writer.process.wait(rng.uniform(0.0, 0.1))


def take_one(store: ModelStore, rng: random.Random, scratch: Path) -> None:
    """One release from its offer to its end."""
    number = store.record.floor + 1
    bundle = write_bundle(scratch / "bundle", f"1.{number % 3}", rng.randbytes(MODEL_BYTES))
    part = scratch / "received"
    release = pack(bundle, part, number, f"1.{number % 3}")
    offer(store, release, rng.randbytes(40_000))
    _say("F", number)
    with part.open("rb") as received, store.part_of(release.archive.sha256).open("wb") as file:
        file.write(received.read())
        file.flush()
        os.fsync(file.fileno())
    slot = store.install(store.part_of(release.archive.sha256), release)
    for state in ("staged", "trial", "active"):
        change(store, state=state, slot=slot)
    store.mirror(slot, store.record.live)
    if rng.random() < 0.6:
        confirm(store)
        _say("C", number)
    else:
        quarantine = {**store.record.quarantine, release.archive.sha256: "health"}
        assert store.record.candidate
        store.save(
            candidate=msgspec.structs.replace(store.record.candidate, state="rolled_back"), quarantine=quarantine
        )
        store.mirror(store.record.live, store.record.previous)
        store.collect_garbage()
        _say("R", number)


def check(models_dir: Path, before: Said, said: Said) -> ModelStore:
    """What must hold after any end of the process; gives the store, started."""
    store = ModelStore(models_dir, MODEL)
    lines = store.start()
    record = store.record
    assert record.floor >= max(before.floor, said.floor), lines
    assert record.live, lines
    assert store.is_whole(record.live)
    assert (record.live.release or 0) >= max(before.confirmed, said.confirmed), lines
    for slot in record.slots:
        assert store.is_whole(slot), (slot, lines)
    needed = {slot.folder for slot in record.slots} | {"1.0-factory", ".incoming"}
    for path in (models_dir / MODEL).iterdir():
        if path.is_dir() and path.name not in needed:
            assert record.candidate, path
            assert record.candidate.sha256 in (path / ".release").read_text(), "an orphan"
        assert ".new-" not in path.name
        assert ".gone-" not in path.name
        assert not path.name.endswith(".tmp")
    for path in (models_dir / MODEL / ".incoming").glob("*"):
        assert record.candidate, path
        assert record.candidate.sha256 in path.name, "an orphan"
    return store


def _say(kind: str, number: int) -> None:
    os.write(1, f"{kind} {number}\n".encode())


def main() -> None:
    models_dir, seed = Path(sys.argv[1]), int(sys.argv[2])
    rng = random.Random(seed)
    scratch = models_dir.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    store = ModelStore(models_dir, MODEL)
    store.start()
    while True:
        take_one(store, rng, scratch)


if __name__ == "__main__":
    main()
