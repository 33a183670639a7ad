"""What one pipeline counts and measures."""

import threading
import time
from collections.abc import Callable
from typing import Literal

import numpy as np

from agent.wire.messages import LatencyMs, PipelineTelemetry

SourceState = Literal["starting", "running", "lost", "ended", "off"]

KEPT = 4096
"""Latencies that are kept, the newest: more than half a minute at a hundred frames a second, in 64 kB."""


class PipelineMetrics:
    """Numbers of one pipeline. Totals never go back.

    Each plain attribute is for one thread to write; `inferred`, `failed` and `snapshot` may be called from any.
    """

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.frames_captured = 0
        self.frames_broken = 0
        """Damaged pictures that the source gave."""
        self.frames_failed = 0
        """Captured, and the model had no answer."""
        self.failure = ""
        """Why it had none the last time."""
        self.source_state: SourceState = "starting"
        self._now_ns = now_ns
        self._began_ns = now_ns()
        self._lock = threading.Lock()
        self._inferred = 0
        self._at_ns = np.zeros(KEPT, np.int64)
        self._latency_ns = np.zeros(KEPT, np.int64)

    def inferred(self, latency_ns: int) -> None:
        """A frame is through, so long after its capture."""
        now_ns = self._now_ns()
        with self._lock:
            place = self._inferred % KEPT
            self._at_ns[place], self._latency_ns[place] = now_ns, latency_ns
            self._inferred += 1

    def failed(self, why: str) -> None:
        """The model had no answer for a frame."""
        with self._lock:
            self.frames_failed += 1
            self.failure = why

    def snapshot(self, window_s: float, *, frames_replaced: int, worker_restarts: int) -> PipelineTelemetry:
        """The numbers now. Asking changes nothing, so any number of readers may.

        Args:
            window_s: rate and latency are over this time, or since the start, or over the newest 4096 frames,
                whichever is shortest.
            frames_replaced: frames for which a newer one came first.
            worker_restarts: since the start.
        """
        now_ns = self._now_ns()
        with self._lock:
            inferred = self._inferred
            kept = min(inferred, KEPT)
            at_ns, latency_ns = self._at_ns[:kept].copy(), self._latency_ns[:kept].copy()
        since_ns = max(now_ns - round(window_s * 1e9), self._began_ns)
        if inferred > KEPT:
            since_ns = max(since_ns, int(at_ns.min()))  # the rest of the window is forgotten
        latency_ns = np.sort(latency_ns[at_ns > since_ns])
        return PipelineTelemetry(
            frames_captured=self.frames_captured,
            frames_inferred=inferred,
            frames_dropped=frames_replaced + self.frames_failed,
            frames_broken=self.frames_broken,
            worker_restarts=worker_restarts,
            fps=round(len(latency_ns) / ((now_ns - since_ns) / 1e9), 2) if now_ns > since_ns else 0.0,
            latency_ms=LatencyMs(
                p50=_percentile_ms(latency_ns, 50),
                p99=_percentile_ms(latency_ns, 99),
                max=_percentile_ms(latency_ns, 100),
            )
            if len(latency_ns)
            else None,
            source_state=self.source_state,
        )


def _percentile_ms(ordered_ns: "np.ndarray[tuple[int], np.dtype[np.int64]]", percent: int) -> float:
    """Nearest rank: the smallest value that at least so many percent do not exceed."""
    rank = -(-len(ordered_ns) * percent // 100)
    return round(int(ordered_ns[rank - 1]) / 1e6, 3)
