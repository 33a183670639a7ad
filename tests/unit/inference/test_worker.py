"""A model in a process of its own: what it answers, and what its end costs."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.errors import ModelError, WorkerLost
from agent.inference.active import ActiveModel
from agent.inference.bundle import load_bundle
from agent.inference.locate import find_bundle
from agent.inference.worker import Worker
from agent.runtime.backoff import Backoff
from tests.sim import wait_until
from tests.sim.bundles import ROOT, make_bundle, picture_path

pytestmark = pytest.mark.runtime


@pytest.fixture
def face(tmp_path: Path) -> Path:
    return find_bundle(make_bundle("face", tmp_path), "face")


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def worker(face: Path, stop: threading.Event) -> Iterator[Worker]:
    worker = make_worker(face, stop)
    yield worker
    worker.close()


def make_worker(folder: Path, stop: threading.Event, timeout_s: float = 20.0) -> Worker:
    return Worker(folder, threads=None, delegate=None, timeout_s=timeout_s, stop=stop)


def astronaut() -> np.ndarray:
    return cv2.imread(str(picture_path("astronaut.png")))


class TestAnswers:
    def test_are_those_of_the_bundle_itself(self, worker: Worker, face: Path) -> None:
        """The process around it changes nothing."""
        worker.start()
        assert load_bundle(face).run(astronaut(), 0.5).found == worker.run(astronaut(), 0.5).found

    def test_tell_which_model_is_loaded(self, worker: Worker) -> None:
        info = worker.start()
        assert ("face", "2026.11.1", "detect", 64) == (info.name, info.version, info.task, len(info.sha256))

    def test_frames_may_change_size_and_be_gray(self, worker: Worker) -> None:
        worker.start()
        image = astronaut()
        for picture in (image, cv2.resize(image, (1600, 1600)), cv2.resize(image, (200, 200)), image[:, :, 1]):
            (detection,) = worker.run(np.ascontiguousarray(picture), 0.5).found.detections
            assert detection.label == "face"
            assert 0.3 < detection.xyxy[0] / picture.shape[1] < 0.4

    def test_confidence_is_the_callers(self, worker: Worker) -> None:
        worker.start()
        assert [] == worker.run(astronaut(), 0.99).found.detections

    def test_an_array_with_gaps_is_taken_too(self, worker: Worker) -> None:
        worker.start()
        assert worker.run(astronaut()[:, ::-1], 0.5).found.detections


class TestTrouble:
    def test_a_killed_process_is_named_and_can_be_started_again(self, worker: Worker) -> None:
        worker.start()
        os.kill(worker.pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="crashed with SIGKILL"):
            worker.run(astronaut(), 0.5)
        assert not worker.alive
        worker.start()
        assert worker.run(astronaut(), 0.5).found.detections

    def test_a_process_that_hangs_is_killed_at_its_deadline(self, face: Path, stop: threading.Event) -> None:
        worker = make_worker(face, stop, timeout_s=0.5)
        worker.start()
        pid = worker.pid or 0
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(WorkerLost, match=r"no answer within 0\.5 s"):
            worker.run(astronaut(), 0.5)
        wait_until(lambda: not Path(f"/proc/{pid}").exists())

    def test_a_stop_ends_the_wait_for_an_answer(self, worker: Worker, stop: threading.Event) -> None:
        worker.start()
        os.kill(worker.pid or 0, signal.SIGSTOP)
        threading.Timer(0.2, stop.set).start()
        started = time.monotonic()
        with pytest.raises(WorkerLost, match="was stopped"):
            worker.run(astronaut(), 0.5)
        assert time.monotonic() - started < 10  # of the 20 s that a frame may take

    def test_a_closed_worker_has_no_process_and_says_so(self, worker: Worker) -> None:
        worker.start()
        pid = worker.pid
        worker.close()
        worker.close()
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        with pytest.raises(WorkerLost):
            worker.run(astronaut(), 0.5)

    def test_nothing_stays_open(self, worker: Worker) -> None:
        """Twenty starts later there are as many descriptors as after the first."""

        def open_files() -> int:
            return len(list(Path("/proc/self/fd").iterdir()))

        worker.start()
        worker.run(astronaut(), 0.5)
        worker.close()
        before = open_files()
        for _ in range(20):
            worker.start()
            worker.run(astronaut(), 0.5)
            worker.close()
        assert before == open_files()

    def test_the_process_dies_with_the_daemon(self, face: Path) -> None:
        """kill -9 of the daemon leaves no model behind, not even one that hangs."""
        code = f"""
import os, signal, sys, threading
from pathlib import Path
from agent.inference.worker import Worker
if __name__ == "__main__":
    worker = Worker(Path({str(face)!r}), threads=None, delegate=None, timeout_s=9, stop=threading.Event())
    worker.start()
    os.kill(worker.pid, signal.SIGSTOP)
    print(worker.pid, flush=True)
    sys.stdin.read()
"""
        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        ) as daemon:
            assert daemon.stdout is not None
            pid = int(daemon.stdout.readline())
            daemon.kill()
        wait_until(lambda: not Path(f"/proc/{pid}").exists())


class TestBundles:
    """What is wrong with a bundle is one line with its path."""

    @pytest.mark.parametrize(
        ("break_it", "expected"),
        [
            (lambda folder: (folder / "model.tflite").unlink(), "model.tflite: no such file"),
            (lambda folder: (folder / "model.tflite").write_bytes(b"PK\3\4"), "model.tflite: "),
            (lambda folder: (folder / "labels.txt").unlink(), "labels.txt: no such file"),
            (lambda folder: (folder / "labels.txt").write_bytes(b"\xff\xfe"), "labels.txt: expected UTF-8"),
            (lambda folder: (folder / "manifest.yaml").unlink(), "manifest.yaml: no such file"),
            (lambda folder: edit(folder, "width_px: 128", "width_px: 192"), "192"),
            (lambda folder: edit(folder, "ssd_anchors", "yolo"), "manifest.yaml"),
        ],
    )
    def test_that_are_broken_say_what_is_wrong(self, worker: Worker, face: Path, break_it, expected: str) -> None:
        break_it(face)
        with pytest.raises(ModelError) as caught:
            worker.start()
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
        assert not worker.alive

    def test_that_are_missing_name_those_that_are_there(self, face: Path) -> None:
        models = face.parent.parent
        with pytest.raises(ModelError, match=r"no model 'faec' \(models there: face\)"):
            find_bundle(models, "faec")
        (models / "face" / "current").write_text("../../etc")
        with pytest.raises(ModelError, match="expected the name of a version"):
            find_bundle(models, "face")
        (models / "face" / "current").write_text("9")
        with pytest.raises(ModelError, match="no folder"):
            find_bundle(models, "face")


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "manifest.yaml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


class TestActiveModel:
    def test_replaces_a_lost_worker(self, face: Path, stop: threading.Event) -> None:
        active = ActiveModel(lambda: make_worker(face, stop), Backoff(base_s=0.01, cap_s=0.01))
        os.kill(active.current().pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerLost):
            active.current().run(astronaut(), 0.5)
        wait_until(lambda: answers(active))
        assert active.restarts == 1
        active.close()

    def test_waits_between_restarts_and_says_why_it_has_no_model(self, face: Path, stop: threading.Event) -> None:
        """The reason stays the same while it waits, so that it is told once."""
        active = ActiveModel(lambda: make_worker(face, stop), Backoff(base_s=60.0, cap_s=60.0))
        for _ in range(2):
            os.kill(active.current().pid or 0, signal.SIGKILL)
            with pytest.raises(WorkerLost):
                active.current().run(astronaut(), 0.5)
        for _ in range(2):
            with pytest.raises(WorkerLost, match="crashed with SIGKILL"):
                active.current()

    def test_says_the_same_while_a_bundle_can_not_be_used(self, face: Path, stop: threading.Event) -> None:
        """Also when it was lost another way before: a reason that changes is told each time."""
        active = ActiveModel(lambda: make_worker(face, stop), Backoff(base_s=60.0, cap_s=60.0))
        os.kill(active.current().pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerLost, match="SIGKILL"):
            active.current().run(astronaut(), 0.5)
        (face / "model.tflite").unlink()
        with pytest.raises(ModelError, match="no such file"):
            active.current()
        with pytest.raises(WorkerLost, match="no such file"):
            active.current()

    def test_swap_closes_the_old_worker_and_loses_no_frame(self, face: Path, stop: threading.Event) -> None:
        active = ActiveModel(lambda: make_worker(face, stop))
        old = active.current()
        new = make_worker(face, stop)
        new.start()
        active.swap(new)
        assert not old.alive
        assert active.current() is new
        assert active.current().run(astronaut(), 0.5).found.detections
        active.close()


def answers(active: ActiveModel) -> bool:
    try:
        return bool(active.current().run(astronaut(), 0.5).found.detections)
    except WorkerLost:
        return False
