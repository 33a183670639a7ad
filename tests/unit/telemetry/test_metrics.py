"""Counters, rate and latency of a pipeline."""

import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.telemetry.metrics import KEPT, PipelineMetrics
from agent.wire.messages import LatencyMs, PipelineTelemetry

MS = 1_000_000
S = 1_000_000_000


class Time:
    """A clock that stands still until told."""

    def __init__(self) -> None:
        self.ns = 7 * S

    def __call__(self) -> int:
        return self.ns


def snapshot(metrics: PipelineMetrics, window_s: float = 30.0) -> PipelineTelemetry:
    return metrics.snapshot(window_s, frames_replaced=0, worker_restarts=0)


def test_at_the_start_nothing_has_happened():
    expected = PipelineTelemetry(
        frames_captured=0,
        frames_inferred=0,
        frames_dropped=0,
        frames_broken=0,
        worker_restarts=0,
        fps=0.0,
        latency_ms=None,
        source_state="starting",
    )
    assert expected == snapshot(PipelineMetrics(Time()))


def test_counters_and_state_are_handed_through():
    metrics = PipelineMetrics(Time())
    metrics.frames_captured = 10
    metrics.frames_broken = 1
    metrics.frames_failed = 2
    metrics.source_state = "running"
    told = metrics.snapshot(30, frames_replaced=3, worker_restarts=4)
    assert (told.frames_captured, told.frames_broken, told.frames_dropped) == (10, 1, 5)
    assert (told.worker_restarts, told.source_state) == (4, "running")


def test_rate_and_latency_are_over_the_window():
    now = Time()
    metrics = PipelineMetrics(now)
    for latency_ms in [1000] * 50 + [10] * 99 + [40]:
        now.ns += S // 10
        metrics.inferred(latency_ms * MS)
    told = snapshot(metrics, 10.0)
    assert (told.frames_inferred, told.fps) == (150, 10.0)
    assert LatencyMs(p50=10.0, p99=10.0, max=40.0) == told.latency_ms


def test_before_a_window_has_passed_the_rate_is_over_the_time_since_the_start():
    now = Time()
    metrics = PipelineMetrics(now)
    for _ in range(20):
        now.ns += S // 10
        metrics.inferred(MS)
    assert snapshot(metrics, 30.0).fps == 10.0


def test_when_nothing_came_in_the_window_there_is_no_latency_and_the_total_stays():
    now = Time()
    metrics = PipelineMetrics(now)
    now.ns += 1
    metrics.inferred(MS)
    now.ns += 31 * S
    told = snapshot(metrics, 30.0)
    assert (told.frames_inferred, told.fps, told.latency_ms) == (1, 0.0, None)


def test_asking_changes_nothing():
    now = Time()
    metrics = PipelineMetrics(now)
    now.ns += S
    metrics.inferred(MS)
    assert snapshot(metrics) == snapshot(metrics)


def test_a_rate_that_outruns_the_memory_is_over_what_is_kept():
    now = Time()
    metrics = PipelineMetrics(now)
    for index in range(KEPT + 1000):
        now.ns += MS
        metrics.inferred(MS if index > 1000 else S)
    told = snapshot(metrics, 30.0)
    assert told.frames_inferred == KEPT + 1000
    assert told.fps == 1000.0
    assert told.latency_ms is not None
    assert told.latency_ms.max == 1.0


@given(st.lists(st.integers(0, 10**10), min_size=1, max_size=300), st.sampled_from([50, 99]))
def test_a_percentile_is_the_smallest_value_that_so_many_do_not_exceed(latencies: list[int], percent: int):
    now = Time()
    metrics = PipelineMetrics(now)
    now.ns += 1
    for latency_ns in latencies:
        metrics.inferred(latency_ns)
    told = snapshot(metrics).latency_ms
    assert told is not None
    expected_ns = sorted(latencies)[math.ceil(len(latencies) * percent / 100) - 1]
    assert round(expected_ns / 1e6, 3) == (told.p50 if percent == 50 else told.p99)
    assert round(max(latencies) / 1e6, 3) == told.max


@pytest.mark.parametrize("window_s", [1.0, 86400.0])
def test_no_window_is_too_short_or_too_long(window_s: float):
    now = Time()
    metrics = PipelineMetrics(now)
    metrics.inferred(MS)
    assert snapshot(metrics, window_s).fps == 0.0
    now.ns += S // 2
    metrics.inferred(MS)
    assert snapshot(metrics, window_s).fps == 2.0


def test_threads_may_count_and_ask_at_once():
    metrics = PipelineMetrics()

    def count() -> None:
        for _ in range(2000):
            metrics.inferred(MS)

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        told = snapshot(metrics)
        assert told.latency_ms in (None, LatencyMs(p50=1.0, p99=1.0, max=1.0))
    assert snapshot(metrics).frames_inferred == 6000
