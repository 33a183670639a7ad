"""What tools/optimize.py decides: which candidates lose too much, and which of the others is best."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agent.evaluation.measures import Confusion

ROUNDING = 1e-9
"""A budget of 0.01 allows a loss of 0.01, whatever floats make of it."""


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """No candidate is good enough; one line for each."""


class Budget(NamedTuple):
    """How much F1 may fall."""

    f1: float
    """The mean over the classes."""
    one_class: float
    """The class that loses most."""


class Candidate(NamedTuple):
    """A model as it was measured."""

    name: str
    folder: Path
    size_bytes: int
    zipped_bytes: int
    """What a dense file with many equal weights hides."""
    infer_ms: float
    """Median."""
    time_ratio: float
    """To the float model, in the same rounds."""
    confusion: Confusion


class Loss(NamedTuple):
    """How much worse a candidate is than the float model."""

    f1: float
    one_class: float
    label: str
    """The class that loses most."""


def loss(before: Confusion, after: Confusion, labels: Sequence[str]) -> Loss:
    """Of F1; under 0 where it is better."""
    by_class = [a.f1 - b.f1 for a, b in zip(before.counts, after.counts, strict=True)]
    worst = int(np.argmax(by_class))
    return Loss(before.macro[2] - after.macro[2], by_class[worst], labels[worst])


def over_budget(found: Loss, budget: Budget) -> str | None:
    """Why a candidate is not taken; None: it may be."""
    if found.one_class > budget.one_class + ROUNDING:
        return f"class {found.label} loses {found.one_class:.4f} of F1, allowed are {budget.one_class:g}"
    if found.f1 > budget.f1 + ROUNDING:
        return f"F1 falls by {found.f1:.4f}, allowed are {budget.f1:g}"
    return None


def choose(whole: Candidate, candidates: Sequence[Candidate], labels: Sequence[str], budget: Budget) -> Candidate:
    """The best of those within the budget. Raises Refused: there is none, or none gains anything."""
    reasons, within = [], []
    for one in candidates:
        reason = over_budget(loss(whole.confusion, one.confusion, labels), budget)
        gain = one.size_bytes / whole.size_bytes * one.time_ratio
        if reason is None and gain >= 1:
            reason = f"gains nothing: size ratio times time ratio is {gain:.2f}"
        if reason is None:
            within.append((gain, one))
        else:
            reasons.append(f"{one.name}: {reason}")
    if not within:
        raise Refused("\n".join(reasons))
    return min(within, key=lambda pair: pair[0])[1]


def on_front(one: Candidate, others: Sequence[Candidate]) -> bool:
    """Whether no other is as good in size, time, F1 and the worst class, and better in one of them (Pareto).

    Digits that the table does not show do not count: of times they are noise.
    """
    mine = _costs(one)
    theirs = [_costs(other) for other in others]
    return not any(other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in theirs)


def _costs(one: Candidate) -> tuple[float, ...]:
    worst = min(f1 for _, f1 in _by_class(one.confusion))
    return one.size_bytes, round(one.time_ratio, 2), -round(one.confusion.macro[2], 4), -round(worst, 4)


def worst_class(confusion: Confusion, labels: Sequence[str]) -> tuple[str, float]:
    """The class with the lowest F1, of those that are a label or an answer at least once; and its F1."""
    place, f1 = min(_by_class(confusion), key=lambda pair: pair[1])
    return labels[place], f1


def _by_class(confusion: Confusion) -> list[tuple[int, float]]:
    counts = enumerate(confusion.counts)
    return [(n, one.f1) for n, one in counts if one.true_positives + one.false_positives + one.false_negatives]
