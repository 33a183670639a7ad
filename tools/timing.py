"""How long models take beside each other on this machine. They take turns, so that a busy machine does little harm."""

import functools
import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agent.inference.bundle import Bundle, load_bundle
from agent.values import Image, Samples

ROUNDS = 20
"""The first one more warms up and does not count."""
PIPELINE_ROUNDS, PIPELINE_ROUND_S, START_TIMEOUT_S = 5, 0.3, 60.0
THREADS = (1, 2, 4)
WORTH_A_THREAD = 1.1
"""More threads than one are recommended from this speed-up on: they are taken from other pipelines."""


class Turns(NamedTuple):
    """How long one of those that took turns needed: the median over the rounds."""

    ms: float
    ratio: float
    """To the first, in the same round."""


class Parallel(NamedTuple):
    """What more threads, more pipelines and kept results would bring a model."""

    by_threads: dict[int, Turns]
    """Of an inference; as many threads as there are cores, at most."""
    two_pipelines: float | None
    """Inferences of two processes at once, as a ratio to those of one in the same time; None: there is one core."""
    hash_ms: float
    """Digest of a sample as it comes: by it a result could be found again."""

    @property
    def threads(self) -> int:
        """The number to recommend."""
        best = min(self.by_threads, key=lambda threads: self.by_threads[threads].ratio)
        return best if self.speedup(best) >= WORTH_A_THREAD else 1

    def speedup(self, threads: int) -> float:
        """To one thread."""
        return 1.0 / self.by_threads[threads].ratio

    @property
    def repeats(self) -> float:
        """Share of frames that must be the same as an earlier one before it pays to keep results; over 1: never."""
        return self.hash_ms / self.by_threads[1].ms


def take_turns(works: Sequence[Callable[[], float]], rounds: int = ROUNDS) -> list[Turns]:
    """Of each work, which gives its time in ms."""
    every = np.maximum([[work() for work in works] for _ in range(rounds + 1)], 1e-3)[1:]  # ms come rounded to a µs
    ratios = np.median(every / every[:, :1], axis=0)
    return [Turns(*pair) for pair in zip(np.median(every, axis=0).tolist(), ratios.tolist(), strict=True)]


def infer_ms(bundle: Bundle, samples: Sequence[Image | Samples]) -> float:
    """The median of an inference. Raises ModelError."""
    return float(np.median([bundle.run(sample, 0.0).infer_ms for sample in samples]))


def measure_parallel(folder: Path, samples: Sequence[Image | Samples], cores: int | None = None) -> Parallel:
    """Try a bundle with more threads, beside itself, and against a digest of what it gets.

    Args:
        folder: the bundle's.
        samples: as they come from a source; a hundred or so.
        cores: how many it may use; None: all that this process may.

    Raises:
        ModelError: it can't be used, or failed.
    """
    cores = cores or len(os.sched_getaffinity(0))
    counts = [threads for threads in THREADS if threads <= cores]
    bundles = [load_bundle(folder, threads=threads) for threads in counts]
    turns = take_turns([functools.partial(infer_ms, bundle, samples) for bundle in bundles])
    hash_ms = take_turns([lambda: float(np.median([_hash_ms(sample) for sample in samples]))])[0].ms
    return Parallel(dict(zip(counts, turns, strict=True)), _two_pipelines(folder, cores), hash_ms)


def _two_pipelines(folder: Path, cores: int) -> float | None:
    if cores < 2:
        return None
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=_load, initargs=(folder, context.Barrier(2))) as pool:
        together = [sum(pool.map(_count_together, range(2)))]  # also waits until both processes are there
        alone = []
        for _ in range(PIPELINE_ROUNDS):
            alone.append(pool.submit(_count).result())
            together.append(sum(pool.map(_count_together, range(2))))
    return float(np.median(np.array(together[1:]) / np.maximum(alone, 1)))


_loaded: tuple[Bundle, Barrier] | None = None
"""In the processes of `_two_pipelines`."""


def _load(folder: Path, both: Barrier) -> None:
    global _loaded
    _loaded = load_bundle(folder, threads=1), both


def _count_together(_: int) -> int:
    assert _loaded is not None  # noqa: S101 - by the pool
    _loaded[1].wait(START_TIMEOUT_S)
    return _count()


def _count() -> int:
    assert _loaded is not None  # noqa: S101 - by the pool
    done, end_s = 0, time.monotonic() + PIPELINE_ROUND_S
    while time.monotonic() < end_s:
        _loaded[0].interpreter.invoke()
        done += 1
    return done


def _passed_ms(work: Callable[[], object]) -> float:
    start_ns = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - start_ns) / 1e6


def _hash_ms(sample: Image | Samples) -> float:
    data = np.ascontiguousarray(sample)
    return _passed_ms(lambda: hashlib.blake2b(data.data, digest_size=16).digest())
