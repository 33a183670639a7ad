"""Overlap, suppression and the way to the frame."""

import numpy as np
import pytest

from agent.decode.boxes import ToFrame, clusters, iou, make_detections
from agent.manifest import SsdDecoder
from agent.values import UNSET, Transform
from tests.unit.decode.helpers import letterbox, same_size, turned

FRAME = same_size((100, 100))


def found(boxes, confidences, class_ids=None, *, at_least=0.1, transform=FRAME, labels=(), **options):
    rows = np.array(boxes, dtype=np.float64)
    spec = SsdDecoder(**{"iou_threshold": 0.5, **options})
    ids = class_ids or [0] * len(rows)
    return make_detections(rows, confidences, ids, at_least=at_least, spec=spec, labels=labels, transform=transform)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ((0, 0, 10, 10), (0, 0, 10, 10), 1.0),
        ((0, 0, 10, 10), (5, 0, 15, 10), 50 / 150),
        ((0, 0, 10, 10), (2, 2, 8, 8), 36 / 100),
        ((0, 0, 10, 10), (10, 0, 20, 10), 0.0),
        ((0, 0, 10, 10), (20, 20, 30, 30), 0.0),
        ((-5, -5, 5, 5), (0, 0, 10, 10), 25 / 175),
        ((0, 0, 1e-200, 1e-200), (0, 0, 1e-200, 1e-200), 0.0),
    ],
)
def test_iou_is_the_shared_area_over_the_covered_area(a, b, expected):
    assert iou(a, b) == pytest.approx(expected)
    assert iou(b, a) == iou(a, b)


def test_hard_nms_keeps_the_best_of_overlapping_boxes_and_their_order():
    boxes = [(0, 0, 10, 10), (1, 0, 11, 10), (50, 50, 60, 60)]
    kept = found(boxes, [0.6, 0.9, 0.7])
    assert [(d.confidence, d.xyxy) for d in kept] == [(0.9, (1, 0, 11, 10)), (0.7, (50, 50, 60, 60))]


def test_boxes_of_different_classes_do_not_suppress_each_other():
    boxes = [(0, 0, 10, 10), (0, 0, 10, 10)]
    assert [d.class_id for d in found(boxes, [0.6, 0.9], [3, 7])] == [7, 3]


def test_a_suppressed_box_suppresses_nothing():
    """Greedy NMS: the second goes, and the third, which only overlaps the second, stays."""
    boxes = [(0, 0, 10, 10), (3, 0, 13, 10), (6, 0, 16, 10)]
    assert [d.confidence for d in found(boxes, [0.9, 0.8, 0.7])] == [0.9, 0.7]


def test_only_more_overlap_than_the_threshold_suppresses():
    boxes = [(0, 0, 10, 10), (0, 0, 10, 5)]
    assert len(found(boxes, [0.9, 0.8], iou_threshold=0.5)) == 2
    assert len(found(boxes, [0.9, 0.8], iou_threshold=0.4999)) == 1


def test_weighted_nms_gives_the_mean_by_confidence_and_the_best_confidence():
    boxes = [(0, 0, 10, 10, 5, 5), (1, 1, 11, 11, 7, 7), (50, 50, 60, 60, 55, 55)]
    best, other = found(boxes, [0.8, 0.4, 0.3], nms="weighted")
    assert (best.confidence, best.xyxy, best.keypoints) == (0.8, (0.33, 0.33, 10.33, 10.33), ((5.67, 5.67),))
    assert (other.confidence, other.xyxy, other.keypoints) == (0.3, (50, 50, 60, 60), ((55, 55),))


def test_weighted_nms_compares_with_the_best_box_not_with_the_mean():
    """As MediaPipe: the mean of the first two would reach the third, the best box does not."""
    boxes = [(0, 0, 10, 10), (3, 0, 13, 10), (4, 0, 14, 10)]
    assert len(found(boxes, [0.5, 0.5, 0.5], nms="weighted", iou_threshold=0.45)) == 2


def test_weighted_nms_of_confidences_of_zero_gives_the_first_box():
    boxes = [(0, 0, 10, 10), (1, 0, 11, 10)]
    assert [d.xyxy for d in found(boxes, [0.0, 0.0], at_least=0.0, nms="weighted")] == [(0, 0, 10, 10)]


@pytest.mark.parametrize("count", [64, 65, 300])
def test_few_and_many_boxes_are_suppressed_alike(count):
    """Plain Python up to a limit, numpy beyond: both give what the definition says."""
    rng = np.random.default_rng(count)
    corners = rng.uniform(0, 80, (count, 2))
    rows = np.hstack((corners, corners + rng.uniform(1, 40, (count, 2)))).tolist()
    classes = rng.integers(0, 3, count).tolist()
    order = list(range(count))
    left, expected = set(order), []
    for lead in order:
        if lead in left:
            same = [r for r in order if r in left and classes[r] == classes[lead] and iou(rows[lead], rows[r]) > 0.453]
            expected.append(same)
            left -= set(same)
    assert list(clusters(rows, classes, order, 0.453)) == expected


def test_max_detections_cuts_after_the_empty_ones_are_gone():
    boxes = [(-20, -20, -5, -5), (0, 0, 10, 10), (20, 20, 30, 30), (40, 40, 50, 50)]
    assert [d.confidence for d in found(boxes, [0.9, 0.8, 0.7, 0.6], max_detections=2)] == [0.8, 0.7]


def test_boxes_without_an_area_or_with_odd_numbers_are_dropped():
    nan, inf = float("nan"), float("inf")
    boxes = [(5, 5, 5, 9), (9, 5, 5, 9), (nan, 0, 1, 1), (0, 0, inf, 1), (-inf, 0, 1, 1), (0, 0, 0.004, 9)]
    assert found(boxes, [0.9] * len(boxes)) == []
    assert found([(0, 0, 9, 9, nan, 1), (0, 0, 9, 9, 1, inf)], [0.9, 0.9]) == []


def test_boxes_are_clipped_to_the_frame_and_keypoints_are_not():
    (detection,) = found([(-5, 90, 20, 120, -3, 110)], [0.9])
    assert detection.xyxy == (0, 90, 20, 100)
    assert detection.keypoints == ((-3, 110),)


def test_boxes_without_keypoints_have_none():
    assert found([(0, 0, 9, 9)], [0.9])[0].keypoints is UNSET


def test_classes_without_a_label_are_called_by_their_number():
    labels = [d.label for d in found([(0, 0, 9, 9), (20, 0, 29, 9)], [0.9, 0.8], [1, 2], labels=["a", "b"])]
    assert labels == ["b", "2"]


def test_numbers_are_rounded():
    (detection,) = found([(1.23456, 2.34567, 10.00001, 20.999, -0.001, 3.14159)], [0.123456])
    assert detection.confidence == 0.1235
    assert detection.xyxy == (1.23, 2.35, 10.0, 21.0)
    assert str(detection.keypoints) == "((0.0, 3.14),)"  # not -0.0


# The way to the frame. A 200 x 100 frame lies in a 64 x 64 input as 64 x 32, 16 pixels from the top.
VIEW = letterbox((200, 100), (64, 64))


def test_letterbox_is_undone():
    to_frame = ToFrame(VIEW)
    assert to_frame.box(0, 16, 64, 48) == (0, 0, 200, 100)
    assert to_frame.box(16, 24, 32, 32) == (50, 25, 100, 50)
    assert to_frame.point(32, 32) == (100, 50)


def test_what_lies_in_the_border_only_is_no_box():
    assert ToFrame(VIEW).box(0, 0, 64, 15.9) is None
    assert ToFrame(VIEW).box(0, 48, 64, 64) is None


def test_mirroring_is_undone():
    to_frame = ToFrame(turned(VIEW, mirrored=True))
    assert to_frame.box(0, 16, 16, 32) == (150, 0, 200, 50)
    assert to_frame.point(0, 16) == (200, 0)


# What a 200 x 100 picture shows at (x, y) lay, before it was turned clockwise to get there, in a 100 x 200 frame ...
@pytest.mark.parametrize(
    ("quarters", "frame_wh", "top_left", "box"),
    [
        (1, (100, 200), (0, 200), (0, 150, 50, 200)),
        (2, (200, 100), (200, 100), (150, 50, 200, 100)),
        (3, (100, 200), (100, 0), (50, 0, 100, 50)),
    ],
)
def test_rotation_is_undone(quarters, frame_wh, top_left, box):
    """The top left corner of a picture turned clockwise by a quarter was the bottom left one."""
    view = turned(VIEW, quarters)
    assert view.frame_wh == frame_wh
    to_frame = ToFrame(view)
    assert to_frame.point(0, 16) == top_left
    assert to_frame.box(0, 16, 16, 32) == box


def test_any_affine_map_gives_the_box_around_the_four_corners():
    slanted = Transform(np.array([[1.0, 1.0, 10.0], [-1.0, 1.0, 50.0]]), (64, 64), (200, 200))
    assert ToFrame(slanted).box(0, 0, 10, 20) == (10, 40, 40, 70)
