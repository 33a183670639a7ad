"""Suppression and the way to the frame, for any boxes."""

import math

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.decode.boxes import ToFrame, clusters, iou, make_detections
from agent.manifest import SsdDecoder
from agent.values import Transform
from tests.unit.decode import reference

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
coordinate = st.floats(-50, 150, width=32)
size = st.floats(0.5, 80, width=32)
box = st.builds(lambda x, y, w, h: [x, y, x + w, y + h], coordinate, coordinate, size, size)
any_float = st.floats(width=32)
factor = st.sampled_from([0.25, 1.0, 2.34375, 7.5])
offset = st.floats(-60, 60)


@st.composite
def transforms(draw) -> Transform:
    """Scaled, moved, mirrored and turned by quarters: what preprocessing can do."""
    across, down = (draw(factor) * draw(st.sampled_from([-1, 1])) for _ in range(2))
    matrix = [[across, 0.0], [0.0, down]]
    if draw(st.booleans()):
        matrix = [[0.0, across], [down, 0.0]]
    matrix = np.array([[*matrix[0], draw(offset)], [*matrix[1], draw(offset)]])
    return Transform(matrix, (100, 100), (draw(st.integers(1, 700)), draw(st.integers(1, 700))))


@unhurried
@given(box, box)
def test_iou_is_symmetric_and_that_of_the_definition(a, b):
    assert iou(a, b) == iou(b, a) == reference.overlap(a, b)
    assert 0.0 <= iou(a, b) <= 1.0
    assert math.isclose(iou(a, a), 1.0)


@unhurried
@given(st.lists(st.tuples(box, st.integers(0, 2)), max_size=120), st.sampled_from([0.0, 0.317, 0.619, 1.0]))
def test_every_box_is_in_one_cluster_with_a_best_that_it_overlaps(boxes, threshold):
    rows, class_ids = [row for row, _ in boxes], [class_id for _, class_id in boxes]
    groups = list(clusters(rows, class_ids, list(range(len(rows))), threshold))
    assert sorted(row for group in groups for row in group) == list(range(len(rows)))
    for group in groups:
        assert group == sorted(group)
        assert all(class_ids[row] == class_ids[group[0]] for row in group)
        assert all(iou(rows[group[0]], rows[row]) > threshold for row in group[1:])
    best = [group[0] for group in groups]
    assert best == sorted(best)
    for place, row in enumerate(best):
        same_class = [other for other in best[:place] if class_ids[other] == class_ids[row]]
        assert all(iou(rows[other], rows[row]) <= threshold for other in same_class)


@unhurried
@given(
    st.lists(st.tuples(box, st.floats(0, 1, width=32), st.integers(0, 2)), max_size=60),
    transforms(),
    st.sampled_from(["hard", "weighted"]),
    st.sampled_from([0.0, 0.317, 0.731]),
)
def test_detections_are_those_of_the_definition(candidates, transform, nms, min_confidence):
    """Compared as sets of (class, confidence): which of two equally good boxes comes first may differ by rounding."""
    spec = SsdDecoder(iou_threshold=0.453, nms=nms, max_detections=1000)
    found = make_detections(
        np.array([row for row, _, _ in candidates], dtype=np.float64).reshape(-1, 4),
        [confidence for _, confidence, _ in candidates],
        [class_id for _, _, class_id in candidates],
        at_least=reference.at_least(min_confidence),
        spec=spec,
        labels=("a", "b"),
        transform=transform,
    )
    boxes = [reference.Box(class_id, confidence, row) for row, confidence, class_id in candidates]
    expected = reference.detections(boxes, spec, transform, min_confidence)
    assert [(d.class_id, d.confidence) for d in found] == [(b.class_id, round(b.confidence, 4)) for b in expected]
    for detection, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(detection.xyxy, wanted.xyxy, rtol=0, atol=0.011)


@unhurried
@given(st.lists(st.lists(any_float, min_size=8, max_size=8), min_size=1, max_size=20), transforms())
def test_any_numbers_give_boxes_in_the_frame_and_finite_keypoints(rows, transform):
    found = make_detections(
        np.array(rows, dtype=np.float64),
        [0.5] * len(rows),
        [0] * len(rows),
        at_least=0.5,
        spec=SsdDecoder(nms="weighted"),
        labels=(),
        transform=transform,
    )
    width, height = transform.frame_wh
    for detection in found:
        left, top, right, bottom = detection.xyxy
        assert 0 <= left < right <= width
        assert 0 <= top < bottom <= height
        assert all(math.isfinite(value) for point in detection.keypoints for value in point)


@unhurried
@given(box, transforms(), st.floats(0, 1), st.floats(0, 1))
def test_a_point_of_a_box_is_mapped_into_the_mapped_box(row, transform, across, down):
    x0, y0, x1, y1 = row
    x, y = ToFrame(transform).point(x0 + across * (x1 - x0), y0 + down * (y1 - y0))
    mapped = ToFrame(transform).box(*row)
    width, height = transform.frame_wh
    if 0.02 < x < width - 0.02 and 0.02 < y < height - 0.02 and mapped:
        assert mapped[0] - 0.02 <= x <= mapped[2] + 0.02
        assert mapped[1] - 0.02 <= y <= mapped[3] + 0.02
