"""agent/evaluation/boxes.py, against pycocotools."""

from collections.abc import Sequence

import numpy as np
import pytest

from agent.evaluation.boxes import OVERLAPS, Judged, Picture, judge
from agent.evaluation.measures import Counts
from agent.evaluation.ranking import at_recalls
from tests.unit.evaluation import coco


def scene(chance: np.random.Generator, most: int) -> Picture:
    """Labelled boxes, some of them crowds; detections near them, beside them, and twice."""
    count = int(chance.integers(0, 6))
    labelled = np.hstack([chance.uniform(0, 60, (count, 2)), chance.uniform(5, 40, (count, 2))]).round(1)
    detections = int(chance.integers(0, most))
    boxes = np.hstack([chance.uniform(0, 60, (detections, 2)), chance.uniform(5, 40, (detections, 2))])
    if count:
        near = chance.random(detections) < 0.7
        boxes[near] = labelled[chance.integers(0, count, near.sum())] + chance.normal(0, 2, (near.sum(), 4))
    boxes[:, 2:] = np.maximum(boxes[:, 2:], 0.5)
    confidences = chance.random(detections).round(int(chance.integers(1, 5)))
    return Picture(confidences, boxes.round(2), labelled, chance.random(count) < 0.2)


@pytest.mark.parametrize("seed", range(12))
def test_average_precision_is_pycocotools(seed: int) -> None:
    chance = np.random.default_rng(seed)
    most = 150 if seed % 3 == 0 else 12  # of which 100 count
    classes = {label: [scene(chance, most) for _ in range(8)] for label in "abc"}
    theirs = coco.precisions(classes)
    for label, pictures in classes.items():
        ours = judge(pictures)
        assert (theirs[label] > -1).all() == (ours.wanted > 0)
        if ours.wanted:
            curves = [at_recalls(ours.curve(place)) for place in range(len(OVERLAPS))]
            np.testing.assert_allclose(curves, theirs[label], atol=1e-12)
            assert ours.average_precisions().mean() == pytest.approx(theirs[label].mean())


def picture(
    boxes: Sequence[tuple[float, ...]], labelled: Sequence[tuple[float, ...]], crowds: Sequence[bool] = ()
) -> Picture:
    """Detections are (confidence, left, top, width, height)."""
    found = np.array(boxes, np.float64).reshape(-1, 5)
    marks = np.array([*crowds, *[False] * (len(labelled) - len(crowds))], np.bool_)
    return Picture(found[:, 0], found[:, 1:], np.array(labelled, np.float64).reshape(-1, 4), marks)


def test_a_box_is_found_once() -> None:
    judged = judge([picture([(0.9, 0, 0, 10, 10), (0.8, 0, 0, 10, 10)], [(0, 0, 10, 10), (50, 50, 10, 10)])])
    assert judged.outcomes[:, 0].tolist() == [1] * 10
    assert judged.outcomes[:, 1].tolist() == [0] * 10
    assert judged.counts(0.0) == Counts(1, 1, 1, 0)
    assert judged.counts(0.85) == Counts(1, 0, 1, 0)


def test_how_much_they_overlap_says_where_it_counts() -> None:
    judged = judge([picture([(0.9, 0, 0, 10, 8)], [(0, 0, 10, 10)])])  # 0.8, as one of the overlaps
    assert judged.outcomes[:, 0].tolist() == [1] * 7 + [0] * 3


def test_a_crowd_swallows_any_number_and_is_not_missed() -> None:
    judged = judge([picture([(0.9, 0, 0, 5, 5), (0.8, 5, 5, 5, 5)], [(0, 0, 20, 20)], [True])])
    assert (judged.wanted, judged.outcomes.tolist()) == (0, [[-1, -1]] * 10)
    assert judged.counts(0.0) == Counts(0, 0, 0, 0)


def test_what_is_never_found_has_an_average_precision_of_0() -> None:
    judged = judge([picture([], [(0, 0, 10, 10)])])
    assert isinstance(judged, Judged)
    assert judged.average_precisions().tolist() == [0.0] * 10
    assert judge([]).wanted == 0
