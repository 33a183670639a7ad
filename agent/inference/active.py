"""The one object in which the frame path and the update path meet: who answers frames now."""

import threading
import time
from collections.abc import Callable

from agent.errors import ModelError, WorkerLost
from agent.inference.protocol import BundleInfo
from agent.inference.worker import Worker
from agent.runtime.backoff import Backoff

_HEALTHY_AFTER_S = 30.0
"""A worker that has lived this long starts the back-off afresh when it is lost."""


class ActiveModel:
    """Gives the frame path a live worker; a lost one is replaced, with back-off when it keeps dying."""

    def __init__(self, make_worker: Callable[[], Worker], backoff: Backoff | None = None) -> None:
        self._make_worker = make_worker
        self._backoff = backoff or Backoff(base_s=0.2, cap_s=30.0)
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._loss = "the model is not loaded"
        self._started_s = 0.0
        self._not_before_s = 0.0
        self.info: BundleInfo | None = None
        """Of the worker that was started last."""
        self.restarts = 0

    def current(self) -> Worker:
        """The worker that answers frames now; starts a new one when the last one was lost.

        Raises:
            ModelError: the bundle can't be used.
            WorkerLost: a new one died at once, or is not due yet.
        """
        with self._lock:
            worker = self._worker
            if worker is not None and worker.alive:
                return worker
            return self._start_next(again=worker is not None)

    def _start_next(self, *, again: bool) -> Worker:
        now_s = time.monotonic()
        if self._worker is not None and self._worker.loss:
            self._loss = self._worker.loss
        if now_s < self._not_before_s:
            raise WorkerLost(self._loss)  # the same words while it waits, so that they are told once
        if now_s - self._started_s > _HEALTHY_AFTER_S:
            self._backoff.reset()
        self._not_before_s = now_s + (self._backoff.next_s() if again else 0.0)
        self.restarts += again
        self._started_s = now_s
        self._worker = worker = self._make_worker()
        try:
            self.info = worker.start()
        except (ModelError, WorkerLost) as exc:
            self._loss = str(exc)
            raise
        return worker

    def swap(self, worker: Worker) -> None:
        """Let a started worker answer from now on; the old one is closed."""
        with self._lock:
            old, self._worker, self.info = self._worker, worker, worker.info
        if old is not None:
            old.close()

    @property
    def pid(self) -> int | None:
        worker = self._worker
        return worker.pid if worker else None

    def close(self) -> None:
        worker = self._worker
        if worker is not None:
            worker.close()
