"""Boxes against labelled boxes, as pycocotools' COCOeval counts them: area `all`, 100 detections of a class a picture.

A detection is right when it overlaps a labelled box of its class that no surer one has taken. A crowd (`iscrowd`: many
of a class, labelled as one box) may be taken by any number; what takes it counts neither for nor against.
"""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.evaluation.measures import Counts
from agent.evaluation.ranking import Curve, at_recalls

OVERLAPS = np.linspace(0.5, 0.95, 10)
"""Intersection over union from which a detection is right: 0.5, 0.55, ... 0.95."""
MAX_DETECTIONS = 100
"""Of a class in a picture: the surest."""

WRONG, RIGHT, NOT_COUNTED = 0, 1, -1

Boxes = NDArray[np.float64]
"""N x 4: left, top, width, height, in pixels."""


class Picture(NamedTuple):
    """One class in one picture."""

    confidences: NDArray[np.float64]
    """Of the detections."""
    boxes: Boxes
    labelled: Boxes
    is_crowd: NDArray[np.bool_]
    """Of the labelled boxes."""


class Judged(NamedTuple):
    """One class in all pictures, the surest detection first."""

    confidences: NDArray[np.float64]
    """N."""
    outcomes: NDArray[np.int8]
    """OVERLAPS x N: WRONG, RIGHT or NOT_COUNTED."""
    wanted: int
    """Labelled boxes that are no crowds."""

    def average_precisions(self) -> NDArray[np.float64]:
        """For each of OVERLAPS: mean of the best precision at 101 recalls. Of a class that has `wanted` boxes."""
        return np.array([at_recalls(self.curve(place)).mean() for place in range(len(OVERLAPS))])

    def curve(self, place: int = 0) -> Curve:
        """Precision and recall down to each detection, at one of OVERLAPS."""
        outcomes = self.outcomes[place]
        right, wrong = np.cumsum(outcomes == RIGHT), np.cumsum(outcomes == WRONG)
        return Curve(right / (right + wrong + np.spacing(1.0)), right / max(1, self.wanted))

    def counts(self, min_confidence: float) -> Counts:
        """What was found from this confidence on, at an overlap of 0.5. Boxes have no true negatives: 0."""
        outcomes = self.outcomes[0][self.confidences >= min_confidence]
        right, wrong = int((outcomes == RIGHT).sum()), int((outcomes == WRONG).sum())
        return Counts(right, wrong, self.wanted - right, 0)


def judge(pictures: Iterable[Picture]) -> Judged:
    """One class in all pictures; of equal confidences, the earlier picture's comes first."""
    confidences, outcomes, wanted = [np.empty(0)], [np.empty((len(OVERLAPS), 0), np.int8)], 0
    for one in pictures:
        order = np.argsort(-one.confidences, kind="stable")[:MAX_DETECTIONS]
        confidences.append(one.confidences[order])
        outcomes.append(_match(one.boxes[order], one.labelled, one.is_crowd))
        wanted += int((~one.is_crowd).sum())
    sure = np.concatenate(confidences)
    order = np.argsort(-sure, kind="stable")
    return Judged(sure[order], np.concatenate(outcomes, axis=1)[:, order], wanted)


def _match(boxes: Boxes, labelled: Boxes, is_crowd: NDArray[np.bool_]) -> NDArray[np.int8]:
    """For each of OVERLAPS, what becomes of each detection; they come surest first.

    Each takes the labelled box that it overlaps most, of equals the last; a crowd only if there is no other.
    """
    outcomes = np.full((len(OVERLAPS), len(boxes)), WRONG, np.int8)
    if not len(labelled) or not len(boxes):
        return outcomes
    single, crowds = _iou(boxes, labelled[~is_crowd]), _iou(boxes, labelled[is_crowd], of_detection=True)
    least = np.minimum(OVERLAPS, 1.0 - 1e-10)
    free = np.ones((len(OVERLAPS), single.shape[1]), np.bool_)
    rows = np.arange(len(OVERLAPS))
    for number in range(len(boxes)):
        if crowds.shape[1]:
            outcomes[crowds[number].max() >= least, number] = NOT_COUNTED
        if single.shape[1]:
            there = np.where(free, single[number], -1.0)
            best = there.shape[1] - 1 - there[:, ::-1].argmax(axis=1)
            taken = there[rows, best] >= least
            outcomes[taken, number] = RIGHT
            free[rows[taken], best[taken]] = False
    return outcomes


def _iou(boxes: Boxes, labelled: Boxes, *, of_detection: bool = False) -> NDArray[np.float64]:
    """Intersection over union, detections x labelled; `of_detection`: over the detection's own area, as for crowds."""
    ours, theirs = boxes[:, None, :], labelled[None, :, :]
    low = np.maximum(ours[..., :2], theirs[..., :2])
    high = np.minimum(ours[..., :2] + ours[..., 2:], theirs[..., :2] + theirs[..., 2:])
    shared = np.prod(np.maximum(high - low, 0.0), axis=-1)
    area = np.prod(ours[..., 2:], axis=-1)
    whole = area if of_detection else area + np.prod(theirs[..., 2:], axis=-1) - shared
    shares: NDArray[np.float64] = np.zeros_like(shared)
    np.divide(shared, whole, out=shares, where=np.broadcast_to(whole > 0, shared.shape))
    return shares
