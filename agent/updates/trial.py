"""The trial of a bundle before it goes live: fresh workers with limits, golden samples, then live frames in shadow.

    worker 1   loads; pictures of nothing; golden samples; time
    worker 2   loads again, since crashes are not always repeatable; golden samples; live frames beside the model in use

The first runs as live workers do, so that its time tells something. The second stays out of the way of live frames.
"""

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from agent.config import Pipeline as PipelineSpec
from agent.errors import ModelError, UpdateFailed, UpdateRefused, WorkerLost
from agent.inference.active import ActiveModel
from agent.inference.golden import agree, is_finite, report_on
from agent.inference.protocol import Answer, GoldenSample, WorkerLimits, window_shape
from agent.inference.worker import START_TIMEOUT_S, Worker
from agent.manifest import Manifest, load_manifest
from agent.telemetry.metrics import PipelineMetrics
from agent.values import Frame, Image, Samples
from agent.wire.archive import ArchiveError, archive_digest
from agent.wire.releases import Release

_SLICE_S = 0.5
_NICE = 10
_PATIENCE_S = 10.0
"""For a frame in the second worker, which waits for everyone else."""
_LOOK_EVERY_S = 0.02
_DISAGREES_UNDER = 0.5
"""A frame on which two models agree less than this is worth keeping."""
_NOISE = 4
"""Pictures of noise, each another."""
_USUAL_WH = (640, 480)
"""Of a frame, as long as none was seen."""


class Seen(Protocol):
    """A live frame and what the model in use says of it."""

    @property
    def frame(self) -> Frame: ...
    @property
    def answer(self) -> Answer: ...


class Live(Protocol):
    """What updates need of a pipeline."""

    @property
    def name(self) -> str: ...
    @property
    def spec(self) -> PipelineSpec: ...
    @property
    def active(self) -> ActiveModel: ...
    @property
    def metrics(self) -> PipelineMetrics: ...
    @property
    def min_confidence(self) -> float: ...
    @property
    def last_seen(self) -> Seen | None: ...
    def disagreed(self, seen: Seen, /) -> None: ...


@dataclass
class TrialReport:
    """What the trial has measured so far."""

    golden_agreement: float | None = None
    """The lower one of both workers; None: the bundle has no golden samples."""
    infer_ms: float | None = None
    """Median."""
    peak_memory_bytes: int = 0
    shadow_frames: int = 0
    shadow_agreement: float | None = None
    """With the answers of the model in use; mean."""


class Trial:
    """One trial of one bundle. For the updates thread."""

    def __init__(
        self, folder: Path, sha256: str, release: Release, lives: Sequence[Live], stop: threading.Event
    ) -> None:
        """
        Args:
            folder: the bundle's.
            sha256: of its archive.
            release: what it has to reach.
            lives: the pipelines that would run it; at least one.
            stop: once set, nothing goes on and nothing is decided.
        """
        self._folder, self._sha256, self._lives, self._stop = folder, sha256, lives, stop
        self._model, self._acceptance = release.model, release.acceptance
        self._work = self._try_all()
        self._worker: Worker | None = None
        self._memory_bytes = 0
        self._agreements: list[float] = []
        self._times_ms: list[float] = []
        self.report = TrialReport()

    def step(self, interrupted: Callable[[], bool]) -> bool:
        """Go on for half a second, or one start of a worker, or one frame; True once the bundle has passed.

        Args:
            interrupted: whether something came that should not wait.

        Raises:
            UpdateRefused: it has failed.
            UpdateFailed: there was no telling: the device lacks memory or processes, or its disk gives other bytes.
        """
        until_s = time.monotonic() + _SLICE_S
        while not self._stop.is_set():
            try:
                next(self._work)
            except StopIteration:
                self.close()
                return True
            except (UpdateRefused, UpdateFailed):
                self.close()
                if self._stop.is_set():
                    break
                raise
            if interrupted() or time.monotonic() >= until_s:
                break
        return False

    def close(self) -> None:
        """End the worker."""
        if self._worker is not None:
            self._worker.close()

    # --- in this order -------------------------------------------------------------------------------------------

    def _try_all(self) -> Iterator[None]:
        manifest = self._load_manifest()
        yield from self._start(self._lives[0], manifest, nice=0)
        yield from self._try_nothing(self._lives[0])
        yield from self._try_golden(manifest)
        self._judge_time(self._acceptance.max_infer_ms or manifest.limits.max_infer_ms)
        self._judge_memory()
        yield from self._start(self._lives[-1], manifest, nice=_NICE)
        yield from self._try_golden(manifest)
        yield from self._shadow()
        self._judge_memory()

    def _load_manifest(self) -> Manifest:
        try:
            return load_manifest(self._folder / "manifest.yaml")
        except ModelError as exc:
            raise UpdateRefused("bundle", str(exc)) from exc

    def _start(self, live: Live, manifest: Manifest, *, nice: int) -> Iterator[None]:
        self.close()
        given = (self._acceptance.max_memory_bytes, manifest.limits.max_memory_bytes)
        self._memory_bytes = min([limit for limit in given if limit is not None], default=_half_of_memory_bytes())
        spec = live.spec
        self._worker = worker = Worker(
            self._folder,
            threads=spec.threads,
            delegate=spec.delegate,
            timeout_s=max(spec.infer_timeout_s, _PATIENCE_S) if nice else spec.infer_timeout_s,
            stop=self._stop,
            sha256=self._sha256,
            limits=WorkerLimits(memory_bytes=self._memory_bytes, nice=nice, trial=True),
        )
        start(worker)
        if worker.info.name != self._model:
            raise UpdateRefused("bundle", f"its manifest is of model {worker.info.name}")
        yield

    def _try_nothing(self, live: Live) -> Iterator[None]:
        """Black or silence, then noise. What is found there does not matter."""
        rng, window = np.random.default_rng(1), self._need_worker().info.window
        if window is not None:
            shape: tuple[int, ...] = window_shape(window)
            inputs = [np.zeros(shape, np.float32), *(rng.standard_normal((_NOISE, *shape), np.float32))]
        else:
            seen = live.last_seen
            shape = seen.frame.data.shape if seen else (_USUAL_WH[1], _USUAL_WH[0], 3)
            inputs = [np.zeros(shape, np.uint8), *rng.integers(0, 256, (_NOISE, *shape), np.uint8)]
        self._look(inputs[0], live.min_confidence)  # the first takes longer, and is not measured
        yield
        for data in inputs[1:]:
            answer = self._look(data, live.min_confidence)
            self._times_ms.append(answer.infer_ms)
            yield

    def _try_golden(self, manifest: Manifest) -> Iterator[None]:
        needed = self._acceptance.min_agreement
        if manifest.golden is None:
            if needed is not None:
                raise UpdateRefused("golden", "the release asks for golden samples, and the bundle has none")
            return
        needed = manifest.golden.min_agreement if needed is None else needed
        samples = [self._try_golden_sample(0)]
        while len(samples) < samples[0].count:
            yield
            samples.append(self._try_golden_sample(len(samples)))
        done = report_on(samples)
        self._times_ms += done.infer_ms
        self._agreements.append(done.agreement)
        self.report.golden_agreement = min(self._agreements)
        if done.agreement < needed:
            raise UpdateRefused("golden", f"agreement {done.agreement:.3f} of {needed:.3f}; worst: {done.worst}")

    def _try_golden_sample(self, index: int) -> GoldenSample:
        try:
            return self._need_worker().try_golden(index)
        except ModelError as exc:
            raise UpdateRefused("golden", str(exc)) from exc
        except WorkerLost as exc:
            raise lost(self._need_worker(), exc) from exc

    def _judge_time(self, max_infer_ms: float | None) -> None:
        self.report.infer_ms = median_ms = statistics.median(self._times_ms)
        if max_infer_ms is not None and median_ms > max_infer_ms:
            raise UpdateRefused("slow", f"{median_ms:.1f} ms, at most {max_infer_ms:g} ms are allowed")

    def _judge_memory(self) -> None:
        peak = self._need_worker().peak_memory_bytes()
        self.report.peak_memory_bytes = max(peak, self.report.peak_memory_bytes)
        if peak > self._memory_bytes:
            raise UpdateRefused("memory", f"{peak >> 20} MiB, at most {self._memory_bytes >> 20} MiB are allowed")

    def _shadow(self) -> Iterator[None]:
        """Look at the frames that the model in use has just answered. There are none to look at where no model is in
        use, or this one takes windows of another kind."""
        wanted, until_s = self._acceptance.shadow_frames, time.monotonic() + self._acceptance.shadow_s
        report, total = self.report, 0.0
        looked_at: dict[str, Seen] = {}
        lives = [live for live in self._lives if self._takes_what_is_in_use(live)]
        while lives and report.shadow_frames < wanted and time.monotonic() < until_s:
            for live in lives:
                seen = live.last_seen
                if seen is not None and looked_at.get(live.name) is not seen:
                    looked_at[live.name] = seen
                    answer = self._look(seen.frame.data, live.min_confidence)
                    agreement = agree(seen.answer.found, answer.found)
                    if agreement < _DISAGREES_UNDER:
                        live.disagreed(seen)
                    total += agreement
                    report.shadow_frames += 1
                    report.shadow_agreement = total / report.shadow_frames
            yield
            self._stop.wait(_LOOK_EVERY_S)
        needed, reached = self._acceptance.min_shadow_agreement, report.shadow_agreement
        if needed is not None and reached is not None and reached < needed:
            raise UpdateRefused("shadow", f"agreement {reached:.3f} of {needed:.3f} over {report.shadow_frames} frames")

    def _takes_what_is_in_use(self, live: Live) -> bool:
        in_use = live.active.info
        return in_use is not None and in_use.window == self._need_worker().info.window

    def _look(self, data: Image | Samples, min_confidence: float) -> Answer:
        worker = self._need_worker()
        try:
            answer = worker.run(data, min_confidence)
        except ModelError as exc:
            raise UpdateRefused("error", str(exc)) from exc
        except WorkerLost as exc:
            raise lost(worker, exc) from exc
        if not is_finite(answer.found):
            raise UpdateRefused("error", "the answer has numbers that are not finite")
        return answer

    def _need_worker(self) -> Worker:
        assert self._worker is not None  # noqa: S101 - from the first step on
        return self._worker


def start(worker: Worker, timeout_s: float = START_TIMEOUT_S) -> None:
    """Start a worker for a release.

    Raises:
        UpdateRefused: the bundle can't be loaded, or the process crashes or hangs.
        UpdateFailed: the device is to blame.
    """
    try:
        worker.start(timeout_s)
    except ModelError as exc:
        _need_whole_files(worker)
        raise UpdateRefused("bundle", str(exc)) from exc
    except WorkerLost as exc:
        raise lost(worker, exc) from exc


def _need_whole_files(worker: Worker) -> None:
    """Raises UpdateFailed: the disk gives other bytes than those that were verified."""
    try:
        found = archive_digest(worker.folder)
    except (ArchiveError, OSError) as exc:
        raise UpdateFailed("storage", str(exc)) from exc
    if worker.sha256 not in (None, found):
        raise UpdateFailed("storage", f"{worker.folder}: the files have changed since they were verified")


def lost(worker: Worker, exc: WorkerLost) -> UpdateRefused | UpdateFailed:
    """Whose fault it was that a worker was lost."""
    if worker.ending in {"crashed", "hung"}:
        return UpdateRefused(worker.ending, str(exc))
    if worker.ending == "killed":
        return UpdateFailed("memory", f"{exc}, as when the device is out of memory")
    return UpdateFailed("crashed", str(exc))  # there is no process to be had, or the agent stops


def _half_of_memory_bytes() -> int:
    """Of the device: what a model may take where neither its manifest nor the release says it."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
