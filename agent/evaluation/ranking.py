"""How well confidences put the right ones first: precision-recall curves and the average precision under them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]

RECALLS = np.linspace(0.0, 1.0, 101)
"""Where curves of several classes are compared: 0, 0.01, ... 1, as COCO does."""


class Curve(NamedTuple):
    """From the strictest threshold to the loosest."""

    precision: Numbers
    recall: Numbers


def curve(confidences: NDArray[np.floating], is_right: Flags) -> Curve | None:
    """A point for each different confidence, taken as the threshold. None: there is nothing to find.

    Args:
        confidences: N numbers.
        is_right: N flags: what has this confidence is what was looked for.
    """
    wanted = int(is_right.sum())
    if not wanted:
        return None
    order = np.argsort(-confidences, kind="stable")
    ranked, hits = confidences[order], np.cumsum(is_right[order])
    last_of_equals = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    found = hits[last_of_equals].astype(np.float64)
    return Curve(found / (last_of_equals + 1), found / wanted)


def average_precision(points: Curve) -> float:
    """Mean precision, weighted by the rise of recall; scikit-learn's average_precision_score."""
    return float(np.sum(np.diff(points.recall, prepend=0.0) * points.precision))


def at_recalls(points: Curve) -> Numbers:
    """The highest precision that is to be had at each of RECALLS or more; 0 where none reaches it (COCO's way)."""
    best = np.maximum.accumulate(points.precision[::-1])[::-1]
    places = np.searchsorted(points.recall, RECALLS, side="left")
    return np.append(best, 0.0)[places]
