"""Who answers frames now: restarts, swaps under load, and a device without a model."""

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.errors import ModelError, WorkerLost
from agent.inference.active import ActiveModel
from agent.inference.locate import find_bundle
from agent.inference.worker import Worker
from agent.runtime.backoff import Backoff
from tests.sim import wait_until
from tests.sim.bundles import make_bundle, picture_path

pytestmark = pytest.mark.runtime

SWAPS = 10


@pytest.fixture
def face(tmp_path: Path) -> Path:
    return find_bundle(make_bundle("face", tmp_path), "face")


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def make(face: Path, stop: threading.Event) -> Callable[[], Worker]:
    return lambda: Worker(face, threads=None, delegate=None, timeout_s=20, stop=stop)


def started(make: Callable[[], Worker]) -> Worker:
    worker = make()
    worker.start()
    return worker


def astronaut() -> np.ndarray:
    return cv2.imread(str(picture_path("astronaut.png")))


def answers(active: ActiveModel) -> bool:
    try:
        return bool(active.current().run(astronaut(), 0.5).found.detections)
    except WorkerLost:
        return False


def lose(active: ActiveModel) -> None:
    os.kill(active.current().pid or 0, signal.SIGKILL)
    with pytest.raises(WorkerLost):
        active.current().run(astronaut(), 0.5)


class TestLosses:
    def test_a_lost_worker_is_replaced_and_counted_once(self, make: Callable[[], Worker]) -> None:
        active = ActiveModel(make, Backoff(base_s=0.01, cap_s=0.01))
        lose(active)
        wait_until(lambda: answers(active))
        assert (1, 1) == (active.restarts, active.losses)
        active.close()

    def test_it_waits_between_restarts_and_says_why_it_has_no_model(self, make: Callable[[], Worker]) -> None:
        """The reason stays the same while it waits, so that it is told once."""
        active = ActiveModel(make, Backoff(base_s=60.0, cap_s=60.0))
        for _ in range(2):
            lose(active)
        for _ in range(3):
            with pytest.raises(WorkerLost, match="crashed with SIGKILL"):
                active.current()
        assert active.losses == 2

    def test_it_says_the_same_while_a_bundle_can_not_be_used(self, make: Callable[[], Worker], face: Path) -> None:
        """Also when it was lost another way before: a reason that changes is told each time."""
        active = ActiveModel(make, Backoff(base_s=60.0, cap_s=60.0))
        lose(active)
        (face / "model.tflite").unlink()
        with pytest.raises(ModelError, match="no such file"):
            active.current()
        for _ in range(2):
            with pytest.raises(WorkerLost, match="no such file"):
                active.current()
        assert active.losses == 2


class TestSwap:
    def test_costs_no_frame(self, make: Callable[[], Worker]) -> None:
        """Every frame that is handed over while ten swaps happen has an answer."""
        active, done = ActiveModel(make), threading.Event()
        answered: list[Worker] = []
        failed: list[Exception] = []
        image = astronaut()

        def look() -> None:
            while not done.is_set():
                try:
                    worker = active.current()
                    worker.submit(image, 0.5)
                    assert worker.receive().found.detections
                    answered.append(worker)
                except Exception as exc:  # noqa: BLE001 - any is a lost frame
                    failed.append(exc)
            active.idle()

        frames = threading.Thread(target=look)
        frames.start()
        wait_until(lambda: len(answered) > 5)
        workers = [answered[0]]
        for _ in range(SWAPS):
            workers.append(started(make))
            active.swap(workers[-1], make)
            assert active.close_retired(20)
            wait_until(lambda: answered[-1] is workers[-1] or failed)
        done.set()
        frames.join(20)
        assert failed == []
        assert [worker.alive for worker in workers] == [False] * SWAPS + [True]
        assert (0, 0) == (active.restarts, active.losses)
        active.close()

    def test_leaves_the_old_worker_its_frame(self, make: Callable[[], Worker]) -> None:
        """It is closed by whoever swaps, after the frame path has come back."""
        active = ActiveModel(make)
        old, new = active.current(), started(make)
        old.submit(astronaut(), 0.5)
        active.swap(new)
        assert not active.close_retired(0.0)
        assert old.receive().found.detections
        assert active.current() is new
        assert active.close_retired(0.0)
        assert not old.alive
        active.close()

    def test_old_workers_go_when_no_frame_comes(self, make: Callable[[], Worker]) -> None:
        active = ActiveModel(make)
        old = active.current()
        active.swap(started(make))
        active.idle()
        assert active.close_retired(0.0)
        assert not old.alive
        active.close()

    def test_later_replacements_are_of_the_new_bundle(self, make: Callable[[], Worker], face: Path) -> None:
        made: list[Worker] = []

        def make_next() -> Worker:
            made.append(Worker(face, threads=None, delegate=None, timeout_s=20, stop=threading.Event(), sha256=None))
            return made[-1]

        active = ActiveModel(make, Backoff(base_s=0.01, cap_s=0.01), sha256="a" * 64)
        active.current()
        active.swap(started(make), make_next)
        lose(active)
        wait_until(lambda: answers(active))
        assert active.current() is made[0]
        assert active.sha256 is None  # that worker's
        active.close()

    def test_does_not_wait_for_a_model_that_is_being_started(self, make: Callable[[], Worker]) -> None:
        """As when a model hangs while it is loaded, and the one before is brought back."""
        slow = make()
        really_start, begun, went_on = slow.start, threading.Event(), threading.Event()

        def start_late(timeout_s: float = 60.0) -> object:
            begun.set()
            went_on.wait(20)
            return really_start(timeout_s)

        slow.start = start_late  # type: ignore[method-assign, assignment]
        makers = iter([slow])
        active = ActiveModel(lambda: next(makers))
        got: list[Worker] = []
        frames = threading.Thread(target=lambda: got.append(active.current()))
        frames.start()
        assert begun.wait(20)
        new = started(make)
        active.swap(new, make)
        went_on.set()
        frames.join(20)
        assert got == [new]
        assert active.close_retired(0.0)
        assert not slow.alive
        active.close()

    def test_says_how_long_the_model_of_now_takes(self, make: Callable[[], Worker]) -> None:
        active = ActiveModel(make)
        active.current().run(astronaut(), 0.5)
        assert active.median_ms()
        active.swap(started(make))
        assert active.median_ms() is None
        active.close()

    def test_closing_ends_all_workers(self, make: Callable[[], Worker]) -> None:
        active = ActiveModel(make)
        old, new = active.current(), started(make)
        active.swap(new)
        active.close()
        assert (False, False) == (old.alive, new.alive)


class TestNoModel:
    def test_is_said_until_a_release_brings_one(self, make: Callable[[], Worker]) -> None:
        active = ActiveModel(None)
        for _ in range(2):
            with pytest.raises(WorkerLost, match="no model yet: waiting for a release"):
                active.current()
        active.swap(started(make), make)
        assert answers(active)
        assert (0, 0) == (active.restarts, active.losses)
        active.close()

    def test_comes_back_when_a_model_is_taken_away(self, make: Callable[[], Worker]) -> None:
        active = ActiveModel(make)
        old = active.current()
        active.clear("it was revoked")
        with pytest.raises(WorkerLost, match="it was revoked"):
            active.current()
        assert active.close_retired(0.0)
        assert not old.alive
        assert (active.info, active.sha256, active.pid) == (None, None, None)
