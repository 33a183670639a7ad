"""Letting another bundle answer frames, and watching how it does."""

import functools
import statistics
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path

from agent.config import Pipeline as PipelineSpec
from agent.errors import UpdateFailed, UpdateRefused
from agent.inference.active import ActiveModel
from agent.inference.worker import START_TIMEOUT_S, Worker
from agent.updates.trial import Live, start
from agent.wire.releases import Activation

_RETIRE_S = 1.0
_ENOUGH_FRAMES = 20
"""Before so many, a share of failed frames says little; the end of the window judges also fewer."""
_KEPT_MEDIANS = 1000
_LONGEST = 10
"""A window that waits for frames lasts at most so many times as long."""


def make_active(spec: PipelineSpec, folder: Path | None, sha256: str | None, stop: threading.Event) -> ActiveModel:
    """For a pipeline: the bundle in `folder`, which must be the one with this digest if one is given; None: no model
    yet."""
    make_worker = functools.partial(_make_worker, spec, folder, sha256, stop) if folder else None
    return ActiveModel(make_worker, sha256=sha256)


def _make_worker(spec: PipelineSpec, folder: Path, sha256: str | None, stop: threading.Event) -> Worker:
    return Worker(
        folder,
        threads=spec.threads,
        delegate=spec.delegate,
        timeout_s=spec.infer_timeout_s,
        stop=stop,
        sha256=sha256,
    )


def activate(lives: Sequence[Live], folder: Path, sha256: str, stop: threading.Event) -> None:
    """Let the bundle in `folder` answer the frames of all these pipelines: all of them, or none.

    All workers are started before the first is swapped; no captured frame is lost.

    Raises:
        UpdateRefused: it can't be loaded, or crashes.
        UpdateFailed: the device could not start so many processes, or not in time.
    """
    deadline_s = time.monotonic() + START_TIMEOUT_S  # for all together: the watchdog waits for this thread too
    ready: list[Worker] = []
    try:
        for live in lives:
            worker = _make_worker(live.spec, folder, sha256, stop)
            ready.append(worker)
            start(worker, max(1.0, deadline_s - time.monotonic()))
    except (UpdateRefused, UpdateFailed) as exc:
        for worker in ready:
            worker.close()
        if exc.reason_code == "hung":  # it passed its trial: the device is busy
            raise UpdateFailed(exc.reason_code, exc.detail) from exc
        raise
    for live, worker in zip(lives, ready, strict=True):
        live.active.swap(worker, functools.partial(_make_worker, live.spec, folder, sha256, stop))
    for live in lives:
        live.active.close_retired(_RETIRE_S)


class HealthWatch:
    """Watches a bundle after it went live, by what the frame path counts anyway; from its making on."""

    def __init__(
        self,
        activation: Activation,
        lives: Sequence[Live],
        max_infer_ms: float | None,
        before_ms: Mapping[str, float],
    ) -> None:
        """
        Args:
            activation: what the release asks for.
            lives: the pipelines that run it.
            max_infer_ms: the longest median inference time, if any.
            before_ms: median inference time of the bundle before, by pipeline, as far as it is known.
        """
        self._activation, self._lives = activation, lives
        self._max_infer_ms, self._before_ms = max_infer_ms, before_ms
        self._began_s = time.monotonic()
        self._losses = self._count_losses()
        self._base = [_count_frames(live) for live in lives]
        self._medians_ms = [deque[float](maxlen=_KEPT_MEDIANS) for _ in lives]

    def check(self) -> bool:
        """Whether the window is over and all is well; to be asked about once a second.

        Frames that never came, of a pipeline that is off or has lost its source, count neither for nor against.

        Raises:
            UpdateRefused: too many crashes (`crashed`) or frames without an answer (`health`); at the end of the
                window also when it was too slow (`slow`).
        """
        crashes = self._count_losses() - self._losses
        if crashes > self._activation.max_crashes:
            raise UpdateRefused("crashed", f"{crashes} times; {self._last_loss()}")
        counts = [
            (answered - answered_before, failed - failed_before)
            for (answered, failed), (answered_before, failed_before) in zip(
                map(_count_frames, self._lives), self._base, strict=True
            )
        ]
        is_over = self._is_over(sum(answered for answered, _ in counts))
        for live, (answered, failed), medians_ms in zip(self._lives, counts, self._medians_ms, strict=True):
            live.active.close_retired()
            total = answered + failed
            if total >= (1 if is_over else _ENOUGH_FRAMES) and failed > self._activation.max_error_rate * total:
                why = f"{live.name}: {failed} of {total} frames have no answer; {live.metrics.failure}"
                raise UpdateRefused("health", why)
            if (median_ms := live.active.median_ms()) is not None:
                medians_ms.append(median_ms)
            if is_over and medians_ms:
                self._judge_time(live, statistics.median(medians_ms))
        return is_over

    def _is_over(self, answered: int) -> bool:
        window_s, lasted_s = self._activation.health_window_s, time.monotonic() - self._began_s
        enough = answered >= self._activation.min_frames
        return lasted_s >= window_s * (1 if enough else _LONGEST)

    def _judge_time(self, live: Live, median_ms: float) -> None:
        """Over the whole window: a device that is busy for a while is not the model's fault."""
        limits_ms = [self._max_infer_ms] if self._max_infer_ms is not None else []
        if self._activation.max_latency_ratio is not None and live.name in self._before_ms:
            limits_ms.append(self._activation.max_latency_ratio * self._before_ms[live.name])
        if limits_ms and median_ms > min(limits_ms):
            raise UpdateRefused("slow", f"{live.name}: {median_ms:.1f} ms, at most {min(limits_ms):.1f} ms are allowed")

    def _count_losses(self) -> int:
        return sum(live.active.losses for live in self._lives)

    def _last_loss(self) -> str:
        return next((live.active.loss for live in self._lives if live.active.losses), "")


def _count_frames(live: Live) -> tuple[int, int]:
    """Answered, and without an answer."""
    numbers = live.metrics.snapshot(1.0, frames_replaced=0, worker_restarts=0)
    return numbers.frames_inferred, live.metrics.frames_failed
