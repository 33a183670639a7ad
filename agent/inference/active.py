"""The one object in which the frame path and the update path meet: who answers frames now.

The frame path calls `current` before it hands over a frame, and `idle` when it has none. Between two such calls it may
have one frame in flight, so that a worker that was swapped out stays until the next one.
"""

import statistics
import threading
import time
from collections.abc import Callable

from agent.errors import ModelError, WorkerLost
from agent.inference.protocol import BundleInfo
from agent.inference.worker import Worker
from agent.runtime.backoff import Backoff

NO_MODEL = "no model yet: waiting for a release"

_HEALTHY_AFTER_S = 30.0
"""A worker that has lived this long starts the back-off afresh when it is lost."""


class ActiveModel:
    """Gives the frame path a live worker; a lost one is replaced, with back-off when it keeps dying.

    `current` and `idle` are for one thread, the frame path's; all else may be called from any.
    """

    def __init__(
        self, make_worker: Callable[[], Worker] | None, backoff: Backoff | None = None, *, sha256: str | None = None
    ) -> None:
        """
        Args:
            make_worker: makes one that is not started; None: there is no model yet.
            backoff: between restarts.
            sha256: of the archive of the bundle that `make_worker` is for, if it is known.
        """
        self._make_worker = make_worker
        self._backoff = backoff or Backoff(base_s=0.2, cap_s=30.0)
        self._changed = threading.Condition(threading.Lock())
        self._worker: Worker | None = None
        self._in_flight: list[Worker] = []  # swapped out, and may still have a frame
        self._released: list[Worker] = []  # swapped out, and nobody asks them any more
        self._counted: Worker | None = None  # the lost one that is in `losses` already
        self.loss = "the model is not loaded" if make_worker else NO_MODEL
        """Why there is no worker, or was none the last time."""
        self._started_s = 0.0
        self._not_before_s = 0.0
        self.sha256 = sha256
        """Of the archive of the bundle that answers, if it is known."""
        self.info: BundleInfo | None = None
        """Of the worker that answers, or was started last."""
        self.restarts = 0
        """Workers started in place of a lost one."""
        self.losses = 0
        """Workers that crashed, hung or could not be started."""

    # --- for the frame path --------------------------------------------------------------------------------------

    def current(self) -> Worker:
        """The worker that answers frames now; starts a new one when the last one was lost.

        Raises:
            ModelError: the bundle can't be used.
            WorkerLost: a new one died at once, or is not due yet, or there is no model.
        """
        self.idle()
        with self._changed:
            worker = self._worker
            if worker is not None and worker.alive:
                return worker
            worker = self._worker = self._make_next(worker)
        return self._start(worker)

    def idle(self) -> None:
        """Nothing is in flight: workers that were swapped out may go."""
        if self._in_flight:
            with self._changed:
                self._released += self._in_flight
                self._in_flight = []
                self._changed.notify_all()

    def _make_next(self, lost: Worker | None) -> Worker:
        """Raises WorkerLost: it is not due yet, or there is no model."""
        now_s = time.monotonic()
        if lost is not None and lost.loss:
            self._count_loss(lost, lost.loss)
        if self._make_worker is None or now_s < self._not_before_s:
            raise WorkerLost(self.loss)  # the same words while it waits, so that they are told once
        if now_s - self._started_s > _HEALTHY_AFTER_S:
            self._backoff.reset()
        self._not_before_s = now_s + (self._backoff.next_s() if lost is not None else 0.0)
        self.restarts += lost is not None
        self._started_s = now_s
        return self._make_worker()

    def _start(self, worker: Worker) -> Worker:
        """Without the lock: a model may take a minute, and a swap must not wait for it."""
        try:
            info = worker.start()
        except (ModelError, WorkerLost) as exc:
            with self._changed:
                if self._worker is worker:
                    self._count_loss(worker, str(exc))
                    raise
        else:
            with self._changed:
                if self._worker is worker:
                    self.info = info
                    return worker
        return self.current()  # it was swapped out meanwhile

    def _count_loss(self, worker: Worker, why: str) -> None:
        self.loss = why
        self.losses += worker is not self._counted
        self._counted = worker

    # --- for the update path -------------------------------------------------------------------------------------

    def swap(self, worker: Worker, make_worker: Callable[[], Worker] | None = None) -> None:
        """Let a started worker answer from now on; the old one still answers the frame that it has.

        Args:
            worker: a started one.
            make_worker: makes those that replace it when it is lost; None: as before.
        """
        with self._changed:
            self._retire()
            self._worker, self.info, self.sha256 = worker, worker.info, worker.sha256
            self._make_worker = make_worker or self._make_worker
            self._started_s, self._not_before_s = time.monotonic(), 0.0
            self._backoff.reset()

    def clear(self, why: str = NO_MODEL) -> None:
        """Have no model from now on."""
        with self._changed:
            self._retire()
            self._worker = self._make_worker = self.info = self.sha256 = None
            self.loss = why

    def _retire(self) -> None:
        old = self._worker
        if old is None:
            return
        if not old.ready:
            old.kill()  # it is being started; nobody has to wait for it
        self._in_flight.append(old)

    def median_ms(self) -> float | None:
        """Median inference time of the last frames that the worker of now has answered; None: it has answered none."""
        worker = self._worker
        return statistics.median(worker.recent_ms) if worker and worker.recent_ms else None

    def close_retired(self, timeout_s: float = 0.0) -> bool:
        """Close workers that were swapped out, once they have answered; False when one still has not.

        The frame path does not wait for this.
        """
        with self._changed:
            done = self._changed.wait_for(lambda: not self._in_flight, timeout_s)
            released, self._released = self._released, []
        for worker in released:
            worker.close()
        return done

    @property
    def pid(self) -> int | None:
        worker = self._worker
        return worker.pid if worker else None

    def close(self) -> None:
        """Close all workers, whatever they are doing."""
        with self._changed:
            workers = [self._worker, *self._in_flight, *self._released]
            self._in_flight, self._released = [], []
        for worker in workers:
            if worker is not None:
                worker.close()
