"""Raw boxes and scores over a grid of anchors: BlazeFace, and SSDs without a post-process of their own."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.decode.boxes import make_detections
from agent.decode.confidence import class_peaks, logit, quietly, raw_floor, sigmoid, single, strongest
from agent.decode.outputs import Outputs
from agent.errors import ModelError
from agent.manifest import SsdAnchorsDecoder
from agent.values import Found, Tensor, TensorInfo, Transform

_KEY = "decoder ssd_anchors:"


class SsdAnchors:
    """Decodes boxes 1 x N x (4 + 2k) and scores 1 x N x classes, for N anchors and k keypoints.

    As mediapipe/calculators/tensor/tensors_to_detections_calculator.cc: an anchor has its one best class.
    """

    def __init__(
        self, spec: SsdAnchorsDecoder, labels: Sequence[str], input_wh: tuple[int, int], outputs: Sequence[TensorInfo]
    ) -> None:
        """
        Raises:
            ModelError: the outputs have other shapes, the anchors are not as many as the boxes, or options contradict
                each other.
        """
        known = Outputs("ssd_anchors", outputs)
        if spec.num_keypoints and spec.keypoint_coord_offset > 4:
            raise ModelError(f"{_KEY} keypoint_coord_offset: expected at most 4, got {spec.keypoint_coord_offset}")
        anchors = sum(grid.count for grid in anchor_grids(spec, input_wh))  # before they are made: they might not fit
        self._boxes, self._scores = _tell_apart(known, anchors, 4 + 2 * spec.num_keypoints, len(labels))
        self._boxes_info, self._scores_info = known.infos[self._boxes], known.infos[self._scores]
        kept = [class_id for class_id in range(self._scores_info.shape[2]) if class_id not in spec.ignore_classes]
        if not kept:
            raise ModelError(f"{_KEY} ignore_classes: expected one class at least that is not ignored, got all")
        # A slice makes no copy. Ignored classes are mostly the background, which is the first or the last.
        self._columns = slice(kept[0], kept[-1] + 1) if kept[-1] - kept[0] == len(kept) - 1 else kept
        self._class_ids = kept
        self._spec = spec
        self._labels = tuple(labels)
        self._fields = _fields(spec)
        self._size_scale = np.array((spec.w_scale, spec.h_scale), dtype=np.float32)
        with np.errstate(over="ignore"):  # absurd scales: inf, and with it every box is dropped
            self._grid = _units_and_origins(spec, input_wh).astype(np.float32)
        # One product turns centres and sizes into corners: four slices added and taken away cost five times as much.
        self._to_corners = np.eye(4 + 2 * spec.num_keypoints, dtype=np.float32)
        self._to_corners[:4, :4] = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [-0.5, 0, 0.5, 0], [0, -0.5, 0, 0.5]])

    @quietly
    def __call__(self, outputs: Sequence[Tensor], transform: Transform, min_confidence: float) -> Found:
        at_least = single(min_confidence)
        planes, peaks = class_peaks(outputs[self._scores][0].T[self._columns])
        rows = strongest(peaks, raw_floor(self._scores_info, self._score_floor(at_least)))
        if not rows.size:
            return Found(detections=[])
        if len(planes) == 1:
            class_ids = self._class_ids * rows.size
        else:
            class_ids = [self._class_ids[column] for column in planes[:, rows].argmax(axis=0).tolist()]
        found = make_detections(
            self._decode(self._boxes_info.dequantize(outputs[self._boxes][0].take(rows, axis=0)), rows),
            self._confidences(self._scores_info.dequantize(peaks[rows]).tolist()),
            class_ids,
            at_least=at_least,
            spec=self._spec,
            labels=self._labels,
            transform=transform,
        )
        return Found(detections=found)

    def _score_floor(self, confidence: float) -> float:
        """The lowest score that can reach a confidence."""
        if not self._spec.sigmoid_score:
            return confidence
        score, clip = logit(confidence), self._spec.score_clipping_thresh
        return -math.inf if clip is not None and score <= -clip else score

    def _confidences(self, scores: list[float]) -> list[float]:
        if not self._spec.sigmoid_score:
            return scores
        if clip := self._spec.score_clipping_thresh:
            scores = [max(-clip, min(score, clip)) for score in scores]
        return [sigmoid(score) for score in scores]

    def _decode(self, raw: NDArray[np.float32], anchors: NDArray[np.intp]) -> NDArray[np.float32]:
        """n x coords encodings to n x (4 + 2k) in input pixels: left, top, right, bottom, keypoints x, y."""
        if self._fields is not None:
            raw = raw[:, self._fields]
        if self._spec.apply_exponential_on_box_size:
            raw[:, 2:4] = np.exp(raw[:, 2:4] / self._size_scale)
        units, origins = self._grid.take(anchors, axis=1)
        boxes: NDArray[np.float32] = (raw * units + origins).dot(self._to_corners)
        return boxes


def _fields(spec: SsdAnchorsDecoder) -> list[int] | None:
    """Columns of x, y, width, height, then x, y of each keypoint; None if that is how they come."""
    points = range(spec.keypoint_coord_offset, spec.keypoint_coord_offset + 2 * spec.num_keypoints)
    came = [*range(4), *points]
    if not spec.reverse_output_order:
        came = [column for pair in zip(came[1::2], came[::2], strict=True) for column in pair]
    return None if came == list(range(len(came))) else came


def _units_and_origins(spec: SsdAnchorsDecoder, input_wh: tuple[int, int]) -> NDArray[np.float64]:
    """For each anchor and field, in input pixels: what an encoding of 1 means, and what is added; 2 x N x fields."""
    anchors = make_anchors(spec, input_wh) * (*input_wh, *input_wh)
    xy, wh = anchors[:, :2], anchors[:, 2:]
    per_unit = wh / (spec.x_scale, spec.y_scale)
    sizes = wh if spec.apply_exponential_on_box_size else wh / (spec.w_scale, spec.h_scale)
    points = spec.num_keypoints
    units = np.hstack((per_unit, sizes, *[per_unit] * points))
    return np.stack((units, np.hstack((xy, np.zeros_like(wh), *[xy] * points))))


def _tell_apart(known: Outputs, anchors: int, coords: int, labels: int) -> tuple[int, int]:
    """Places of boxes and scores: by shape; if both have the shape of boxes, in MediaPipe's order, boxes first."""
    classes = str(labels) if labels else "classes"
    expected = f"boxes (1, {anchors}, {coords}) and scores (1, {anchors}, {classes}), for {anchors} anchors"
    fitting = known.find(lambda info: len(info.shape) == 3 and info.shape[1] == anchors)
    boxes = next((place for place in fitting if known.infos[place].shape[2] == coords), None)
    scores = [place for place in fitting if place != boxes and labels in (0, known.infos[place].shape[2])]
    if boxes is None or len(scores) != 1:
        raise known.wrong(expected)
    return boxes, scores[0]


@dataclass(frozen=True, slots=True)
class AnchorGrid:
    """The anchors of layers that share a stride: all `sizes` (width, height; shares of the input) in every cell."""

    columns: int
    rows: int
    sizes: list[tuple[float, float]]

    @property
    def count(self) -> int:
        return self.columns * self.rows * len(self.sizes)


def anchor_grids(spec: SsdAnchorsDecoder, input_wh: tuple[int, int]) -> list[AnchorGrid]:
    """The grids of mediapipe/calculators/tflite/ssd_anchors_calculator.cc, in its order.

    Raises:
        ModelError: `num_layers` is not the number of strides.
    """
    strides, layers = spec.strides, len(spec.strides)
    if spec.num_layers not in (None, layers):
        raise ModelError(f"{_KEY} num_layers: expected {layers}, one for each stride, got {spec.num_layers}")
    grids = []
    layer = 0
    while layer < layers:
        sizes: list[tuple[float, float]] = []
        first = layer
        while layer < layers and strides[layer] == strides[first]:  # layers of one stride share their cells
            sizes += _sizes(spec, layer, layers)
            layer += 1
        columns, rows = (math.ceil(side / strides[first]) for side in input_wh)
        grids.append(AnchorGrid(columns, rows, sizes))
    return grids


def make_anchors(spec: SsdAnchorsDecoder, input_wh: tuple[int, int]) -> NDArray[np.float64]:
    """All anchors: N x (centre x, centre y, width, height), shares of the input; row by row, cell by cell.

    Raises:
        ModelError: `num_layers` is not the number of strides.
    """
    cells = []
    for grid in anchor_grids(spec, input_wh):
        anchors = np.empty((grid.rows, grid.columns, len(grid.sizes), 4))
        anchors[..., 0] = ((np.arange(grid.columns) + spec.anchor_offset_x) / grid.columns)[None, :, None]
        anchors[..., 1] = ((np.arange(grid.rows) + spec.anchor_offset_y) / grid.rows)[:, None, None]
        anchors[..., 2:] = 1.0 if spec.fixed_anchor_size else grid.sizes
        cells.append(anchors.reshape(-1, 4))
    return np.concatenate(cells)


def _sizes(spec: SsdAnchorsDecoder, layer: int, layers: int) -> list[tuple[float, float]]:
    """Width and height of one layer's anchors."""
    scale = _scale(spec, layer, layers)
    if layer == 0 and spec.reduce_boxes_in_lowest_layer:
        shapes = [(0.1, 1.0), (scale, 2.0), (scale, 0.5)]
    else:
        shapes = [(scale, ratio) for ratio in spec.aspect_ratios]
        if spec.interpolated_scale_aspect_ratio > 0.0:
            following = 1.0 if layer == layers - 1 else _scale(spec, layer + 1, layers)
            shapes.append((math.sqrt(scale * following), spec.interpolated_scale_aspect_ratio))
    return [(size * math.sqrt(ratio), size / math.sqrt(ratio)) for size, ratio in shapes]


def _scale(spec: SsdAnchorsDecoder, layer: int, layers: int) -> float:
    if layers == 1:
        return (spec.min_scale + spec.max_scale) / 2.0
    return spec.min_scale + (spec.max_scale - spec.min_scale) * layer / (layers - 1.0)
