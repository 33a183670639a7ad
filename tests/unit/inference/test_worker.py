"""A model in a process of its own: what it answers, and what its end costs."""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agent.errors import ModelError, WorkerLost
from agent.inference.bundle import load_bundle
from agent.inference.locate import find_bundle
from agent.inference.protocol import WorkerLimits
from agent.inference.worker import Worker
from agent.wire.archive import archive_digest
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


def make_worker(folder: Path, stop: threading.Event, timeout_s: float = 20.0, **more: Any) -> Worker:
    return Worker(folder, threads=None, delegate=None, timeout_s=timeout_s, stop=stop, **more)


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

    def test_how_it_ended_is_one_word_too(self, face: Path, stop: threading.Event) -> None:
        for number, ending in ((signal.SIGSEGV, "crashed"), (signal.SIGKILL, "killed"), (signal.SIGSTOP, "hung")):
            worker = make_worker(face, stop, timeout_s=0.5)
            worker.start()
            os.kill(worker.pid or 0, number)
            with pytest.raises(WorkerLost):
                worker.run(astronaut(), 0.5)
            assert worker.ending == ending

    def test_a_kill_from_another_thread_ends_the_wait(self, worker: Worker) -> None:
        worker.start()
        os.kill(worker.pid or 0, signal.SIGSTOP)
        worker.submit(astronaut(), 0.5)
        threading.Timer(0.1, worker.kill).start()
        with pytest.raises(WorkerLost, match="SIGKILL"):
            worker.receive()

    @pytest.mark.parametrize("words", [b"A\xc1", b"A" + bytes(100), b"E\xff\xff", b"?"])
    def test_an_answer_that_makes_no_sense_is_the_end_of_the_process(self, worker: Worker, words: bytes) -> None:
        """As when a model writes over the memory of its process."""
        worker.start()
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        real, worker._socket = worker._socket, near
        worker._poll.register(near, select.POLLIN)
        with real, far:
            far.send(words)
            with pytest.raises(WorkerLost, match="makes no sense"):
                worker.run(astronaut(), 0.5)
        assert (worker.alive, worker.ending) == (False, "crashed")

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

    def test_that_are_not_the_verified_ones_are_not_loaded(self, face: Path, stop: threading.Event) -> None:
        sha256 = archive_digest(face)
        worker = make_worker(face, stop, sha256=sha256)
        worker.start()
        worker.close()
        for name in ("labels.txt", "golden/expected.json"):
            (face / name).write_text((face / name).read_text() + "\n")
            with pytest.raises(ModelError, match="the files of the bundle have changed"):
                worker.start()
        (face / "model.tflite").unlink()
        with pytest.raises(ModelError, match=r"model\.tflite"):
            worker.start()

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


class TestLimits:
    """A model is code from outside: what its process may do."""

    def test_hold_for_every_worker(self, worker: Worker) -> None:
        """No files, no core dumps, few descriptors, no new privileges, and so much memory as the manifest says."""
        worker.start()
        proc = Path(f"/proc/{worker.pid}")
        assert (0, 0, 128) == tuple(
            limit(proc, what) for what in ("Max file size", "Max core file size", "Max open files")
        )
        assert "NoNewPrivs:\t1" in (proc / "status").read_text()
        assert (proc / "oom_score_adj").read_text() == "1000\n"
        assert 400 << 20 < limit(proc, "Max data size") < 1 << 30

    def test_the_lower_memory_limit_holds(self, face: Path, stop: threading.Event) -> None:
        for memory_bytes, at_most in ((64 << 20, 300 << 20), (1 << 40, 1 << 30)):
            worker = make_worker(face, stop, limits=WorkerLimits(memory_bytes=memory_bytes))
            worker.start()
            assert limit(Path(f"/proc/{worker.pid}"), "Max data size") < at_most
            assert worker.run(astronaut(), 0.5).found.detections
            worker.close()

    def test_too_little_memory_is_an_error_or_a_crash_of_the_worker_only(
        self, face: Path, stop: threading.Event
    ) -> None:
        edit(face, "width_px: 128, height_px: 128", "width_px: 128, height_px: 128, steps: [{op: denoise}]")
        worker = make_worker(face, stop, limits=WorkerLimits(memory_bytes=1))
        worker.start()
        huge = np.zeros((6000, 16000, 3), np.uint8)  # 288 MB; the copy that the filter makes does not fit
        with pytest.raises((ModelError, WorkerLost)):
            worker.run(huge, 0.5)
        worker.close()

    def test_a_nice_worker_leaves_time_to_others(self, face: Path, stop: threading.Event) -> None:
        worker = make_worker(face, stop, limits=WorkerLimits(nice=10))
        worker.start()
        assert os.getpriority(os.PRIO_PROCESS, worker.pid or 0) == os.getpriority(os.PRIO_PROCESS, 0) + 10
        worker.close()

    def test_the_picture_can_not_be_taken_from_under_the_daemon(self, worker: Worker) -> None:
        """Shrunk by the other side, it would kill whoever writes the next frame."""
        worker.start()
        worker.run(astronaut(), 0.5)
        with pytest.raises(PermissionError):
            os.ftruncate(worker._memory_fd, 0)

    def test_peak_memory_is_what_the_model_took(self, worker: Worker) -> None:
        assert worker.peak_memory_bytes() == 0
        worker.start()
        worker.run(astronaut(), 0.5)
        assert 1 << 20 < worker.peak_memory_bytes() < 200 << 20
        worker.close()
        assert worker.peak_memory_bytes() == 0


def limit(proc: Path, what: str) -> int:
    (line,) = [line for line in (proc / "limits").read_text().splitlines() if line.startswith(what)]
    return int(line[len(what) :].split()[0])
