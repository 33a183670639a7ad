"""Whether confidences mean what they say: of answers with a confidence of 0.8, eight of ten should be right.

Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks (2017): expected calibration error over 15 bins
of equal width, and one temperature for all classes. Brier: Verification of forecasts expressed in terms of probability
(1950).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BINS = 15
LEAST_CONFIDENCE = 5e-5
"""Half of the last digit that results carry: what is less sure is 0 in them, and has no logarithm."""
_COLDEST, _HOTTEST = 0.05, 20.0
_ROWS_AT_ONCE = 4096
_SUM_TOLERANCE = 0.05
"""Confidences of int8 models come in steps of 1/256, and those of many classes are rounded away."""

Scores = NDArray[np.float32]
"""Confidence of each class, samples x classes."""
Places = NDArray[np.int64]


class Bin(NamedTuple):
    """Answers whose confidence is over `low` and up to `low` + 1/15."""

    low: float
    answers: int
    confidence: float
    """Mean."""
    accuracy: float


def is_distribution(scores: Scores) -> bool:
    """Whether the confidences of a sample lie between 0 and 1 and add up to 1, for most samples: else they are logits,
    or each class is for itself."""
    sums = scores.sum(axis=1)
    near = np.abs(sums - 1.0) <= _SUM_TOLERANCE
    return bool(len(scores) and scores.min() >= 0.0 and scores.max() <= 1.0 and near.mean() >= 0.9)


def reliability(scores: Scores, labels: Places) -> list[Bin]:
    """The bins that are not empty, by the confidence of each sample's answer."""
    confidences = scores.max(axis=1).astype(np.float64)
    right = scores.argmax(axis=1) == labels
    places = np.clip(np.ceil(confidences * BINS).astype(int) - 1, 0, BINS - 1)
    return [
        Bin(place / BINS, int(inside.sum()), float(confidences[inside].mean()), float(right[inside].mean()))
        for place in range(BINS)
        if (inside := places == place).any()
    ]


def expected_error(bins: list[Bin]) -> float:
    """How far confidence and accuracy are apart, mean over the answers: 0 is best."""
    total = sum(one.answers for one in bins)
    return sum(one.answers * abs(one.accuracy - one.confidence) for one in bins) / total if total else 0.0


def brier(scores: Scores, labels: Places) -> float:
    """Squared distance from the truth, summed over the classes, mean over the samples: 0 is best, 2 worst.

    As scikit-learn's brier_score_loss with scale_by_half=False.
    """
    squares = np.einsum("ij,ij->i", scores, scores, dtype=np.float64)
    right = scores[np.arange(len(labels)), labels].astype(np.float64)
    return float(np.mean(squares - 2.0 * right + 1.0))


def best_temperature(scores: Scores, labels: Places) -> float | None:
    """The temperature that logits should be divided by: the likelihood of the labels is highest with it.

    Over 1 the model is too sure of itself, under 1 not sure enough. Worked out from confidences as results carry them,
    so it is rough where nearly all of them are 1. None: the best lies outside of 0.05 to 20, as of a model that is
    always right.

    The derivative of the log-likelihood by 1/temperature is the label's log-confidence less the mean one under the
    tempered confidences; it only falls as 1/temperature rises, so its root is bisected.
    """
    low, high = 1.0 / _HOTTEST, 1.0 / _COLDEST
    if _slope(scores, labels, low) <= 0.0 or _slope(scores, labels, high) >= 0.0:
        return None
    for _ in range(24):
        middle = math.sqrt(low * high)
        if _slope(scores, labels, middle) > 0.0:
            low = middle
        else:
            high = middle
    return 1.0 / math.sqrt(low * high)


def _slope(scores: Scores, labels: Places, inverse: float) -> float:
    """Of the log-likelihood, by the inverse of the temperature; summed over all samples."""
    total = 0.0
    for start in range(0, len(scores), _ROWS_AT_ONCE):
        logs = np.log(np.maximum(scores[start : start + _ROWS_AT_ONCE], LEAST_CONFIDENCE), dtype=np.float64)
        tempered = np.exp(inverse * (logs - logs.max(axis=1, keepdims=True)))
        tempered /= tempered.sum(axis=1, keepdims=True)
        of_labels = logs[np.arange(len(logs)), labels[start : start + _ROWS_AT_ONCE]]
        total += float(of_labels.sum() - np.einsum("ij,ij->", tempered, logs))
    return total
