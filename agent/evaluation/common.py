"""What all measures have in common."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from agent.evaluation.ranking import RECALLS, Curve, at_recalls
from agent.inference.protocol import Answer
from agent.values import Image, Samples

T = TypeVar("T")

Report: TypeAlias = dict[str, Any]
"""Names and figures, in the order of the table; lists and dicts are tables of their own."""


class Model(Protocol):
    """A worker; or a bundle in this very process, for tools that made it themselves."""

    def run(self, data: Image | Samples, min_confidence: float) -> Answer:
        """Sample in, answer out. Raises ModelError, WorkerLost."""


class Follow(Protocol):
    """Hands on one thing after the other, and shows how far it is."""

    def __call__(self, things: Sequence[T], unit: str, /) -> Iterable[T]: ...


def quietly(things: Sequence[T], unit: str, /) -> Iterable[T]:  # noqa: ARG001 - a Follow
    """Shows nothing."""
    return things


def thin(things: Sequence[T], limit: int | None) -> list[T]:
    """At most so many, spread evenly: an index is often sorted by class."""
    if limit is None or limit >= len(things):
        return list(things)
    return [things[round(place)] for place in np.linspace(0, len(things) - 1, limit)]


def significant(value: float) -> float | None:
    """Of a figure in any unit, what people and JSON want of it: six digits; None: it is NaN."""
    return None if math.isnan(value) else float(f"{value:.6g}")


def latency(total_ms: Sequence[float]) -> Report:
    """From sample to answer, on this machine."""
    return {
        "latency_p50_ms": round(float(np.median(total_ms)), 3),
        "latency_p99_ms": round(float(np.quantile(total_ms, 0.99)), 3),
    }


def curves_of(curves: Mapping[str, tuple[Curve, float]]) -> Report:
    """Precision at RECALLS, of each class and their mean; and the average precision that goes with each."""
    rows = {label: at_recalls(points) for label, (points, _) in curves.items()}
    mean = np.mean(list(rows.values()), axis=0) if rows else np.zeros(0)
    return {
        "recall": RECALLS.round(2).tolist(),
        "classes": {label: row.round(4).tolist() for label, row in rows.items()},
        "mean": mean.round(4).tolist(),
        "average_precision": {label: round(area, 4) for label, (_, area) in curves.items()},
    }
