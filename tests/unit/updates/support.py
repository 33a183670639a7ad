"""A pipeline as updates see it, without a source: a thread that has one picture looked at again and again."""

import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2
import msgspec

from agent.config import Pipeline as PipelineSpec
from agent.errors import ModelError, WorkerLost
from agent.inference.active import ActiveModel
from agent.inference.locate import find_bundle
from agent.inference.protocol import Answer
from agent.telemetry.metrics import PipelineMetrics
from agent.values import Frame, Image
from agent.wire.archive import archive_digest
from agent.wire.releases import Archive, Release
from tests.sim.bundles import make_bundle, picture_path


@dataclass(frozen=True)
class Seen:
    """A frame with its answer."""

    frame: Frame
    answer: Answer


class LivePipeline:
    """Frames through `active`, in the order of calls of `Pipeline.infer_loop`."""

    def __init__(self, active: ActiveModel, image: Image | None = None, **spec: object) -> None:
        fields = {"name": "door", "model": "face", "source": {"type": "synthetic"}, "infer_timeout_s": 2, **spec}
        self.spec = msgspec.convert(fields, PipelineSpec)
        self.name, self.min_confidence = self.spec.name, self.spec.min_confidence
        self.active, self.metrics = active, PipelineMetrics()
        self.last_seen: Seen | None = None
        self.image = astronaut() if image is None else image
        self.troubles: list[str] = []
        self.disagreements: list[object] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._loop)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join(20)
        self.active.close()
        assert not self._thread.is_alive()

    def disagreed(self, seen: object) -> None:
        self.disagreements.append(seen)

    @property
    def answered(self) -> int:
        return self.metrics.snapshot(1.0, frames_replaced=0, worker_restarts=0).frames_inferred

    def _loop(self) -> None:
        index = 0
        while not self._done.is_set():
            frame = Frame(self.image, index, time.monotonic_ns(), time.time_ns())
            try:
                worker = self.active.current()
                worker.submit(frame.data, self.min_confidence)
                self.last_seen = Seen(frame, worker.receive())
                self.metrics.inferred(time.monotonic_ns() - frame.captured_ns)
            except (ModelError, WorkerLost) as exc:
                self.metrics.frames_failed += 1
                self.troubles.append(str(exc))
            index += 1
            self._done.wait(0.002)  # the pace of a source
        self.active.idle()


def astronaut() -> Image:
    image = cv2.imread(str(picture_path("astronaut.png")))
    return cv2.resize(image, (256, 256))


def face_bundle(tmp_path: Path) -> Path:
    """A bundle of the face model, with golden samples."""
    home = tmp_path / "models" / "face"
    return (
        find_bundle(tmp_path / "models", "face")
        if home.exists()
        else find_bundle(make_bundle("face", tmp_path), "face")
    )


def variant(
    bundle: Path, name: str, model: bytes | None = None, edit: dict[str, str] | None = None
) -> tuple[Path, str]:
    """A copy with another model, or with lines of the manifest edited; gives its folder and its digest."""
    folder = bundle.parent / name
    shutil.copytree(bundle, folder)
    if model is not None:
        (folder / "model.tflite").write_bytes(model)
    manifest = (folder / "manifest.yaml").read_text()
    for old, new in (edit or {}).items():
        assert old in manifest
        manifest = manifest.replace(old, new)
    (folder / "manifest.yaml").write_text(manifest)
    return folder, archive_digest(folder)


def make_release(sha256: str, **parts: object) -> Release:
    """A release of these bytes, as if it had been verified."""
    archive = Archive(sha256=sha256, size_bytes=1, chunk_list_sha256="0" * 64)
    fields = {
        "fleet": "f", "model": "face", "release": 2, "version": "2", "created": "2026-01-01T00:00:00Z",
        "archive": msgspec.to_builtins(archive), **parts,
    }  # fmt: skip
    return msgspec.convert(fields, Release)
