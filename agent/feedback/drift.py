"""Are frames still like those that the model was measured on?

The last frames are held against the manifest's `reference`, three ways: which class the model is surest of, how sure it
is, and how far its embedding lies from where embeddings lay. For each the population stability index is taken,
`sum((p - q) * ln(p / q))` over bins, with the usual readings of 0.1 and 0.25 (Siddiqi, Credit Risk Scorecards, 2006);
for the two that are ordered also the Kolmogorov-Smirnov distance, at the bins' edges, so never larger than the true
one. The index alone is large for small windows and many bins: without any drift it is about `(bins - 1) * (1 / n + 1 /
m)` (Yurdakul, Statistical Properties of the Population Stability Index, 2018), which is 0.22 of a hundred classes. So
something drifts when the index is over its limit and chance hardly brings that: of an ordered number the distance says
so, of classes the indices of windows that are drawn from the reference.
"""

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.config import Drift
from agent.feedback.summary import Summary
from agent.manifest import Histogram, Reference
from agent.wire.messages import DriftFigures

_KS_CRITICAL = 1.95
"""`sqrt(-ln(alpha / 2) / 2)` for alpha = 0.001, for large samples (Smirnov 1948)."""
_DRAWS, _DEVIATIONS = 200, 4.0
"""So many windows of classes are drawn; what lies so many standard deviations over their mean is no chance."""
_LOOKS = 10
"""A window is judged so many times while it is filled anew."""


@dataclass(frozen=True, slots=True)
class DriftChange:
    """Drift has begun, goes on with other figures, or is over."""

    drifts: bool
    figures: DriftFigures


class _Spread:
    """Counts of one number in the window, beside its reference."""

    def __init__(self, shares: NDArray[np.float64], samples: int, *, is_ordered: bool) -> None:
        self._shares, self._samples, self._is_ordered = shares, samples, is_ordered
        self._counts = np.zeros(len(shares), np.int64)
        self._most: tuple[int, float] | None = None

    def add(self, place: int, count: int = 1) -> None:
        self._counts[place] += count

    def psi(self) -> float:
        return _psi(self._counts, self._shares, self._samples)

    def ks(self) -> float | None:
        if not self._is_ordered:
            return None
        now = np.cumsum(self._counts / self._counts.sum())
        return float(np.abs(now - np.cumsum(self._shares)).max())

    def is_significant(self) -> bool:
        """Frames like the reference's hardly ever come so far."""
        n, m, distance = int(self._counts.sum()), self._samples, self.ks()
        if distance is None:
            return self.psi() > self._most_by_chance(n)
        return distance > _KS_CRITICAL * math.sqrt((n + m) / (n * m))

    def _most_by_chance(self, frames: int) -> float:
        if self._most is None or self._most[0] != frames:
            rng, m = np.random.default_rng(1), self._samples
            drawn = [
                _psi(rng.multinomial(frames, self._shares), rng.multinomial(m, self._shares) / m, m)
                for _ in range(_DRAWS)
            ]
            self._most = frames, float(np.mean(drawn) + _DEVIATIONS * np.std(drawn))
        return self._most[1]


def _psi(counts: NDArray[np.int64], shares: NDArray[np.float64], samples: int) -> float:
    """An empty bin counts as half a sample; in the window as no more than the reference has in it."""
    total = int(counts.sum())
    then = np.maximum(shares, 0.5 / samples)
    now = np.where(counts, counts / total, np.minimum(then, 0.5 / total))
    return float(np.sum((now - then) * np.log(now / then)))


class DriftMonitor:
    """For one model version and one pipeline; for one thread."""

    def __init__(self, reference: Reference, settings: Drift) -> None:
        self._settings, self._embedding = settings, reference.embedding
        self._edges: dict[str, NDArray[np.float64]] = {}
        self._spreads: dict[str, _Spread] = {}
        self._classes = {label: place for place, label in enumerate(reference.classes)}
        if "classes" in settings.watch:
            shares = np.array([*reference.classes.values(), 0.0])  # the last: labels that the reference has not
            self._spreads["classes"] = _Spread(shares / shares.sum(), reference.samples, is_ordered=False)
        if "confidence" in settings.watch:
            self._watch("confidence", reference.confidence, reference.samples)
        if "embedding" in settings.watch and reference.embedding:
            self._watch("embedding", reference.embedding.distance, reference.samples)
        self._window: deque[dict[str, int]] = deque()
        self._seen = 0
        self.drifts = False
        self.figures: DriftFigures | None = None
        """Of the last look; None: the window is not full yet."""

    def _watch(self, name: str, histogram: Histogram, samples: int) -> None:
        shares = np.array(histogram.shares)
        self._edges[name] = np.array(histogram.edges)
        self._spreads[name] = _Spread(shares / shares.sum(), samples, is_ordered=True)

    def see(self, summary: Summary, embedding: bytes) -> DriftChange | None:
        """Take a frame in.

        Args:
            embedding: float32, or empty.

        Returns:
            What has changed; None: nothing.
        """
        places = self._places(summary, embedding)
        self._window.append(places)
        for name, place in places.items():
            self._spreads[name].add(place)
        size = self._settings.window_frames
        if len(self._window) > size:
            for name, place in self._window.popleft().items():
                self._spreads[name].add(place, -1)
        self._seen += 1
        if len(self._window) < size or self._seen % max(1, size // _LOOKS) or not places:
            return None
        return self._judge()

    def _places(self, summary: Summary, embedding: bytes) -> dict[str, int]:
        numbers = {"confidence": summary.confidence}
        if self._embedding and len(embedding) == 4 * len(self._embedding.mean):
            numbers["embedding"] = distance(np.frombuffer(embedding, "<f4"), self._embedding.mean, self._embedding.std)
        places = {
            name: int(np.searchsorted(edges, numbers[name], side="right"))
            for name, edges in self._edges.items()
            if name in numbers
        }
        if "classes" in self._spreads:
            places["classes"] = self._classes.get(summary.label, len(self._classes))
        return places

    def _judge(self) -> DriftChange | None:
        limit = self._settings.max_psi
        told = {name: spread for name, spread in self._spreads.items() if name in self._window[-1]}
        psi = {name: round(spread.psi(), 4) for name, spread in told.items()}
        ks = {name: round(far, 4) for name, spread in told.items() if (far := spread.ks()) is not None}
        self.figures = DriftFigures(psi=psi, ks=ks, max_psi=limit, frames=len(self._window))
        before = self.drifts
        if before:  # it is over only when all are well below: figures around the limit would ring again and again
            self.drifts = any(value >= limit / 2 for value in psi.values())
        else:
            self.drifts = any(value >= limit and told[name].is_significant() for name, value in psi.items())
        return DriftChange(self.drifts, self.figures) if self.drifts != before else None


def distance(embedding: NDArray[np.float32], mean: tuple[float, ...], std: tuple[float, ...]) -> float:
    """How far an embedding lies from where embeddings lay: root mean square of its scores; NaN is far."""
    scores = (embedding - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    far = float(np.sqrt(np.mean(np.square(scores))))
    return far if math.isfinite(far) else 1e9
