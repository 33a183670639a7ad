"""How well answers fit labels: precision, recall, F1 and errors as scikit-learn defines them; what people notice."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Counts:
    """Answers of yes or no against labels. A share of nothing is 0, as in scikit-learn."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float:
        """How many of the yeses are right."""
        return _share(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> float:
        """How many of those labelled yes were found."""
        return _share(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return _share(2 * self.true_positives, 2 * self.true_positives + self.false_positives + self.false_negatives)


def count(answers: Sequence[bool], labels: Sequence[bool]) -> Counts:
    """Compare answers with labels, one by one. Raises ValueError: there are more of one than of the other."""
    given, wanted = _flags(answers), _flags(labels)
    if given.shape != wanted.shape:
        raise ValueError(f"{len(given)} answers for {len(wanted)} labels")
    return Counts(
        int((given & wanted).sum()),
        int((given & ~wanted).sum()),
        int((~given & wanted).sum()),
        int((~given & ~wanted).sum()),
    )


def runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """Stretches of True: the first place of each, and the place behind its last."""
    steps = np.diff(np.concatenate([[0], _flags(flags).astype(np.int8), [0]]))
    return list(zip(np.flatnonzero(steps > 0).tolist(), np.flatnonzero(steps < 0).tolist(), strict=True))


def touched(stretches: Sequence[tuple[int, int]], flags: Sequence[bool]) -> int:
    """How many of these stretches have a True of `flags` in them."""
    return sum(any(flags[start:stop]) for start, stop in stretches)


def _flags(values: Sequence[bool]) -> Flags:
    return np.asarray(values, np.bool_)


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


# --- classes


@dataclass(frozen=True, slots=True)
class Confusion:
    """Which class was taken for which, counted."""

    table: NDArray[np.int64]
    """Classes x (classes + 1): a row for each label, a column for each answer, the last for no answer."""

    @property
    def counts(self) -> list[Counts]:
        """Each class against all others."""
        right, whole = np.diagonal(self.table), int(self.table.sum())
        answered, labelled = self.table.sum(0)[:-1], self.table.sum(1)
        rows = zip(right.tolist(), answered.tolist(), labelled.tolist(), strict=True)
        return [Counts(tp, given - tp, wanted - tp, whole - given - wanted + tp) for tp, given, wanted in rows]

    @property
    def accuracy(self) -> float:
        """How many answers are right, of all."""
        return _share(int(np.trace(self.table)), int(self.table.sum()))

    @property
    def macro(self) -> tuple[float, float, float]:
        """Precision, recall and F1, each the mean over the classes that are a label or an answer at least once."""
        there = [one for one in self.counts if one.true_positives + one.false_positives + one.false_negatives]
        figures = np.array([(one.precision, one.recall, one.f1) for one in there]).reshape(-1, 3)
        precision, recall, f1 = figures.mean(0).tolist() if there else (0.0, 0.0, 0.0)
        return precision, recall, f1


def confuse(answers: Sequence[int | None], labels: Sequence[int], classes: int) -> Confusion:
    """Compare classes, one by one; None is no answer.

    Raises:
        ValueError: there are more answers than labels, or fewer; or a number is no class.
    """
    given = np.array([classes if answer is None else answer for answer in answers], np.int64)
    wanted = np.array(labels, np.int64)
    if given.shape != wanted.shape:
        raise ValueError(f"{len(given)} answers for {len(wanted)} labels")
    if given.size and not (min(given.min(), wanted.min()) >= 0 and given.max() <= classes and wanted.max() < classes):
        raise ValueError(f"expected classes from 0 to {classes - 1}")
    table = np.zeros((classes, classes + 1), np.int64)
    np.add.at(table, (wanted, given), 1)
    return Confusion(table)


# --- numbers


def deviations(answers: Numbers, truth: Numbers) -> dict[str, Numbers]:
    """How far numbers are off, each column for itself; the mean of a figure is scikit-learn's `uniform_average`.

    Args:
        answers: N x columns.
        truth: what they should be, of the same shape; one row or more.

    Returns:
        By their name, figures of each column, in its own unit. `bias` is over 0 where the answers are too high;
        `baseline_mae` is that of always saying the mean of the truth. `r2` has no unit, and is NaN for one row.
    """
    errors = answers - truth
    sizes = np.abs(errors)
    return {
        "mae": sizes.mean(axis=0),
        "rmse": np.sqrt((errors**2).mean(axis=0)),
        "r2": _r2(errors, truth),
        "median_absolute_error": np.median(sizes, axis=0),
        "p95_absolute_error": np.quantile(sizes, 0.95, axis=0),
        "bias": errors.mean(axis=0),
        "baseline_mae": np.abs(truth - truth.mean(axis=0)).mean(axis=0),
    }


def _r2(errors: Numbers, truth: Numbers) -> Numbers:
    """Coefficient of determination. Where the truth is constant: 1 if all is right, else 0, as in scikit-learn."""
    if len(truth) < 2:
        return np.full(truth.shape[1], np.nan)
    left, spread = (errors**2).sum(axis=0), ((truth - truth.mean(axis=0)) ** 2).sum(axis=0)
    shares: Numbers = (left > 0).astype(np.float64)
    np.divide(left, spread, out=shares, where=spread > 0)
    return np.subtract(1.0, shares)
