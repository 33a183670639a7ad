"""Boxes: overlap, non-maximum suppression, and the way from input pixels to frame pixels."""

from collections.abc import Iterator, Sequence
from math import floor, isfinite
from typing import TypeAlias

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from agent.decode.outputs import label_of
from agent.manifest import SsdAnchorsDecoder, SsdDecoder, YoloDecoder
from agent.values import Detection, Transform, Xyxy

BoxDecoder: TypeAlias = SsdDecoder | SsdAnchorsDecoder | YoloDecoder
"""The manifest's sections whose decoders make boxes: they share `iou_threshold`, `max_detections` and `nms`."""

_FEW = 64
"""Up to here plain Python suppresses faster than numpy."""

_TINY = float(np.finfo(np.float64).tiny)


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom); 0 when they only touch."""
    # Comparisons instead of min() and max(): a quarter of the time, in the innermost loop of all.
    a0, a1, a2, a3 = a
    b0, b1, b2, b3 = b
    width = (a2 if a2 < b2 else b2) - (a0 if a0 > b0 else b0)  # noqa: FURB136
    height = (a3 if a3 < b3 else b3) - (a1 if a1 > b1 else b1)  # noqa: FURB136
    if width <= 0.0 or height <= 0.0:
        return 0.0
    shared = width * height
    union = (a2 - a0) * (a3 - a1) + (b2 - b0) * (b3 - b1) - shared
    return shared / union if union > 0.0 else 0.0  # boxes can be so thin that their areas vanish


def clusters(
    rows: list[list[float]], class_ids: Sequence[int], order: list[int], iou_threshold: float
) -> Iterator[list[int]]:
    """Boxes taken for the same object, by greedy non-maximum suppression within a class.

    Args:
        rows: n boxes: left, top, right, bottom; what follows does not matter.
        class_ids: n.
        order: rows to look at, best first.
        iou_threshold: a box belongs to the best remaining box of its class if they overlap more than this.

    Yields:
        Rows of each object, its best first; objects best first. Hard NMS keeps the first row of each. Lazy: whoever
        has enough objects stops asking.
    """
    few = len(order) <= _FEW
    return (_clusters_of_few if few else _clusters_of_many)(rows, class_ids, order, iou_threshold)


def _clusters_of_few(
    rows: list[list[float]], class_ids: Sequence[int], order: list[int], iou_threshold: float
) -> Iterator[list[int]]:
    boxes = [row[:4] for row in rows]
    while order:
        lead, *rest = order
        box, class_id = boxes[lead], class_ids[lead]
        group, order = [lead], []
        for row in rest:
            if class_ids[row] == class_id and iou(box, boxes[row]) > iou_threshold:
                group.append(row)
            else:
                order.append(row)
        yield group


def _clusters_of_many(
    rows: list[list[float]], class_ids: Sequence[int], order: list[int], iou_threshold: float
) -> Iterator[list[int]]:
    boxes = np.array([rows[i][:4] for i in order]).T.copy()
    classes = np.array([class_ids[i] for i in order])
    left = np.arange(len(order))
    batch = 8  # compared with all that are left at once: more as long as that does not end it
    while left.size:
        head = left[:batch]
        same = _overlaps(boxes[:, head], boxes[:, left]) > iou_threshold
        same &= classes[head, None] == classes[left]
        same[np.diag_indices(len(head))] = True
        alive = np.ones(len(left), dtype=np.bool_)
        for place in range(len(head)):
            if alive[place]:
                group = same[place] & alive
                yield [order[i] for i in left[group].tolist()]
                alive ^= group
        left = left[alive]
        batch = min(2 * batch, 64)


def _overlaps(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Intersection over union of n and m boxes, each 4 x n or m: n x m."""
    ax0, ay0, ax1, ay1 = a[:, :, None]
    bx0, by0, bx1, by1 = b
    width = np.minimum(ax1, bx1) - np.maximum(ax0, bx0)
    height = np.minimum(ay1, by1) - np.maximum(ay0, by0)
    shared = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    union = (ax1 - ax0) * (ay1 - ay0) + (bx1 - bx0) * (by1 - by0) - shared
    overlaps: NDArray[np.float64] = shared / np.maximum(union, _TINY)
    return overlaps


def round_px(value: float) -> float:
    """To 2 digits, halves up, never -0.0; a quarter of the time of round(), which prints and parses."""
    return floor(value * 100.0 + 0.5) / 100.0


class ToFrame:
    """Takes boxes and points from input pixels to frame pixels, rounded to 2 digits."""

    def __init__(self, transform: Transform) -> None:
        (self._xx, self._xy, self._x), (self._yx, self._yy, self._y) = transform.matrix.tolist()
        self._width, self._height = transform.frame_wh

    def box(self, x0: float, y0: float, x1: float, y1: float) -> Xyxy | None:
        """The upright box around a box's four mapped corners, clipped to the frame; None if nothing is left of it."""
        left, right = _span(self._xx, x0, x1, self._xy, y0, y1, self._x, self._width)
        top, bottom = _span(self._yx, x0, x1, self._yy, y0, y1, self._y, self._height)
        return (left, top, right, bottom) if left < right and top < bottom else None

    def point(self, x: float, y: float) -> tuple[float, float]:
        """A point, also when it lies outside of the frame."""
        return (
            round_px(self._xx * x + self._xy * y + self._x),
            round_px(self._yx * x + self._yy * y + self._y),
        )


def _span(
    per_x: float, x0: float, x1: float, per_y: float, y0: float, y1: float, offset: float, size: int
) -> tuple[float, float]:
    """From where to where a mapped box reaches along one axis of the frame, clipped to its size."""
    if per_x < 0.0:
        x0, x1 = x1, x0
    if per_y < 0.0:
        y0, y1 = y1, y0
    low = per_x * x0 + per_y * y0 + offset
    high = per_x * x1 + per_y * y1 + offset
    return round_px(max(0.0, low)), round_px(min(float(size), high))


def make_detections(
    boxes: NDArray[np.floating],
    confidences: Sequence[float],
    class_ids: Sequence[int],
    *,
    at_least: float,
    spec: BoxDecoder,
    labels: Sequence[str],
    transform: Transform,
) -> list[Detection]:
    """Candidates to detections: sort, suppress, map to the frame, clip.

    With weighted NMS an object's box and keypoints are the mean of its candidates, weighted by confidence, and its
    confidence is the best one's (mediapipe/calculators/util/non_max_suppression_calculator.cc, per class as with its
    `multiclass_nms`).

    Args:
        boxes: n x (4 + 2k) in input pixels: left, top, right, bottom, then k keypoints x, y. Rows with NaN or inf and
            boxes without an area are dropped.
        confidences: n.
        class_ids: n, from 0.
        at_least: candidates under it are dropped.
        spec: iou_threshold, nms and max_detections.
        labels: label of each class.
        transform: input to frame.
    """
    rows = boxes.tolist()  # plain Python from here on: for the usual handful of candidates it beats numpy
    order = [
        i
        for i, row in enumerate(rows)
        if confidences[i] >= at_least and row[0] < row[2] and row[1] < row[3] and isfinite(sum(row))
    ]
    order.sort(key=confidences.__getitem__, reverse=True)
    to_frame = ToFrame(transform)
    found: list[Detection] = []
    for group in clusters(rows, class_ids, order, spec.iou_threshold):
        lead = group[0]
        if spec.nms == "hard" or len(group) == 1:
            x0, y0, x1, y1, *points = rows[lead]
        else:
            x0, y0, x1, y1, *points = _weighted_mean(boxes, confidences, group)
        if xyxy := to_frame.box(x0, y0, x1, y1):
            class_id = class_ids[lead]
            keypoints = tuple(map(to_frame.point, points[::2], points[1::2])) or UNSET
            label = label_of(labels, class_id)
            found.append(Detection(label, class_id, round(confidences[lead], 4), xyxy, keypoints))
            if len(found) == spec.max_detections:
                break
    return found


def _weighted_mean(boxes: NDArray[np.floating], confidences: Sequence[float], group: list[int]) -> list[float]:
    weights = [confidences[i] for i in group]
    total = sum(weights)
    mean: list[float] = (
        np.array(weights, boxes.dtype).dot(boxes.take(group, axis=0)) / total if total else boxes[group[0]]
    ).tolist()
    return mean
