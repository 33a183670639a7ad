"""Decoders once more: plain loops, straight from the published definitions, sharing no line with agent.decode.

Slow on purpose: every value is dequantised, every box decoded, nothing is cut off early. Sources:

    anchors          mediapipe/calculators/tflite/ssd_anchors_calculator.cc
    raw boxes        mediapipe/calculators/tensor/tensors_to_detections_calculator.cc
    suppression      mediapipe/calculators/util/non_max_suppression_calculator.cc, IOU, multiclass_nms
    post-process     tensorflow/lite/kernels/detection_postprocess.cc
    yolo             non_max_suppression of ultralytics/yolov5 and ultralytics/ultralytics, multi_label=False

Results are not rounded: a detection is (class id, confidence, box, keypoints).
"""

import math
from dataclasses import dataclass, field

import numpy as np

from agent.manifest import RegressDecoder, SegmentDecoder, SsdAnchorsDecoder, SsdDecoder, YoloDecoder
from agent.values import Tensor, TensorInfo, Transform


@dataclass
class Box:
    """A candidate, in pixels of the input, later of the frame."""

    class_id: int
    confidence: float
    xyxy: list[float]
    keypoints: list[tuple[float, float]] = field(default_factory=list)
    place: int = 0
    """Which of equally confident ones comes first."""

    def is_sound(self) -> bool:
        x0, y0, x1, y1 = self.xyxy
        numbers = [*self.xyxy, *(value for point in self.keypoints for value in point)]
        return all(math.isfinite(value) for value in numbers) and x1 > x0 and y1 > y0


def real(info: TensorInfo, raw) -> float:
    """One dequantised value, in float32 as the runtime would do it."""
    if "float" in info.dtype or info.scale == 0:
        return float(raw)
    return float((np.float32(raw) - np.float32(info.zero_point)) * np.float32(info.scale))


def sigmoid(value: float) -> float:
    if value >= 0:
        return 1 / (1 + math.exp(-value))
    return math.exp(value) / (1 + math.exp(value))


def at_least(min_confidence: float) -> float:
    return float(np.float32(min_confidence))


def best_class(scores: list[float], ignored=()) -> tuple[int, float] | None:
    best = None
    for class_id, score in enumerate(scores):
        if class_id not in ignored and math.isfinite(score) and (best is None or score > best[1]):
            best = (class_id, score)
    return best


# Anchors


def anchors(spec: SsdAnchorsDecoder, width: int, height: int) -> list[tuple[float, float, float, float]]:
    """SsdAnchorsCalculator::GenerateAnchors: centre x, centre y, width, height, shares of the input."""

    def calculate_scale(stride_index):
        if len(spec.strides) == 1:
            return (spec.min_scale + spec.max_scale) * 0.5
        return spec.min_scale + (spec.max_scale - spec.min_scale) * 1.0 * stride_index / (len(spec.strides) - 1.0)

    made = []
    layer_id = 0
    while layer_id < len(spec.strides):
        aspect_ratios, scales = [], []
        last_same_stride_layer = layer_id
        while (
            last_same_stride_layer < len(spec.strides)
            and spec.strides[last_same_stride_layer] == spec.strides[layer_id]
        ):
            scale = calculate_scale(last_same_stride_layer)
            if last_same_stride_layer == 0 and spec.reduce_boxes_in_lowest_layer:
                aspect_ratios += [1.0, 2.0, 0.5]
                scales += [0.1, scale, scale]
            else:
                for aspect_ratio in spec.aspect_ratios:
                    aspect_ratios.append(aspect_ratio)
                    scales.append(scale)
                if spec.interpolated_scale_aspect_ratio > 0.0:
                    last = last_same_stride_layer == len(spec.strides) - 1
                    scale_next = 1.0 if last else calculate_scale(last_same_stride_layer + 1)
                    scales.append(math.sqrt(scale * scale_next))
                    aspect_ratios.append(spec.interpolated_scale_aspect_ratio)
            last_same_stride_layer += 1
        feature_map_height = math.ceil(height / spec.strides[layer_id])
        feature_map_width = math.ceil(width / spec.strides[layer_id])
        for y in range(feature_map_height):
            for x in range(feature_map_width):
                for aspect_ratio, scale in zip(aspect_ratios, scales, strict=True):
                    x_center = (x + spec.anchor_offset_x) / feature_map_width
                    y_center = (y + spec.anchor_offset_y) / feature_map_height
                    if spec.fixed_anchor_size:
                        made.append((x_center, y_center, 1.0, 1.0))
                    else:
                        ratio_sqrt = math.sqrt(aspect_ratio)
                        made.append((x_center, y_center, scale * ratio_sqrt, scale / ratio_sqrt))
        layer_id = last_same_stride_layer
    return made


# Candidates, in input pixels


def ssd_anchors_boxes(
    spec: SsdAnchorsDecoder,
    input_wh: tuple[int, int],
    raw_boxes: tuple[TensorInfo, Tensor],
    raw_scores: tuple[TensorInfo, Tensor],
) -> list[Box]:
    """TensorsToDetectionsCalculator: DecodeBoxes and the class loop of ProcessCPU."""
    width, height = input_wh
    found = []
    for i, (anchor_x, anchor_y, anchor_w, anchor_h) in enumerate(anchors(spec, width, height)):
        raw = [real(raw_boxes[0], value) for value in raw_boxes[1][0, i]]
        order = slice(None) if spec.reverse_output_order else slice(None, None, -1)
        x, y = raw[0:2][order]
        w, h = raw[2:4][order]
        x = x / spec.x_scale * anchor_w + anchor_x
        y = y / spec.y_scale * anchor_h + anchor_y
        if spec.apply_exponential_on_box_size:
            w = _exp(w / spec.w_scale) * anchor_w
            h = _exp(h / spec.h_scale) * anchor_h
        else:
            w = w / spec.w_scale * anchor_w
            h = h / spec.h_scale * anchor_h
        keypoints = []
        for k in range(spec.num_keypoints):
            start = spec.keypoint_coord_offset + 2 * k
            point_x, point_y = raw[start : start + 2][order]
            point_x = point_x / spec.x_scale * anchor_w + anchor_x
            point_y = point_y / spec.y_scale * anchor_h + anchor_y
            keypoints.append((point_x * width, point_y * height))
        best = best_class([real(raw_scores[0], value) for value in raw_scores[1][0, i]], spec.ignore_classes)
        if best is None:
            continue
        class_id, score = best
        if spec.sigmoid_score:
            if spec.score_clipping_thresh is not None:
                score = min(max(score, -spec.score_clipping_thresh), spec.score_clipping_thresh)
            score = sigmoid(score)
        xyxy = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        found.append(Box(class_id, score, xyxy, keypoints))
    return found


def _exp(value: float) -> float:
    return math.exp(value) if value < 88 else math.inf  # where float32 ends


def ssd_boxes(
    input_wh: tuple[int, int],
    boxes: tuple[TensorInfo, Tensor],
    classes: tuple[TensorInfo, Tensor],
    scores: tuple[TensorInfo, Tensor],
    count: tuple[TensorInfo, Tensor],
) -> list[Box]:
    """The four outputs of TFLite_Detection_PostProcess."""
    width, height = input_wh
    number = real(count[0], count[1].ravel()[0])
    found = []
    for i in range(min(max(0, int(number)), scores[1].shape[1]) if math.isfinite(number) else 0):
        top, left, bottom, right = (real(boxes[0], value) for value in boxes[1][0, i])
        class_id, score = real(classes[0], classes[1][0, i]), real(scores[0], scores[1][0, i])
        if math.isfinite(score) and -0.5 < class_id < 2**31 - 1:
            xyxy = [left * width, top * height, right * width, bottom * height]
            found.append(Box(round(class_id), score, xyxy))
    return found


def yolo_boxes(
    spec: YoloDecoder, input_wh: tuple[int, int], info: TensorInfo, rows: Tensor, min_confidence: float
) -> list[Box]:
    """Boxes as rows: x, y, w, h, (objectness,) classes."""
    width, height = input_wh if spec.normalized else (1, 1)
    found = []
    for row in rows:
        x, y, w, h, *rest = (real(info, value) for value in row)
        objectness = 1.0
        if spec.version == "v5":
            objectness, *rest = rest
            if not math.isfinite(objectness) or objectness < at_least(min_confidence):
                continue
        best = best_class(rest)
        if best is None:
            continue
        xyxy = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        found.append(Box(best[0], objectness * best[1], xyxy))
    return found


# Suppression


def overlap(a: list[float], b: list[float]) -> float:
    left, top = max(a[0], b[0]), max(a[1], b[1])
    right, bottom = min(a[2], b[2]), min(a[3], b[3])
    if right <= left or bottom <= top:
        return 0.0
    intersection = (right - left) * (bottom - top)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union > 0 else 0.0


def hard_nms(boxes: list[Box], iou_threshold: float) -> list[Box]:
    """NonMaxSuppression: keep a box unless one that was kept before overlaps it too much."""
    retained: list[Box] = []
    for box in boxes:
        if all(overlap(kept.xyxy, box.xyxy) <= iou_threshold for kept in retained):
            retained.append(box)
    return retained


def weighted_nms(boxes: list[Box], iou_threshold: float) -> list[Box]:
    """WeightedNonMaxSuppression: the mean of all that overlap the best, weighted by their confidence."""
    output: list[Box] = []
    remaining = list(boxes)
    while remaining:
        best = remaining[0]
        candidates = [b for b in remaining if b is best or overlap(b.xyxy, best.xyxy) > iou_threshold]
        remaining = [b for b in remaining if not any(b is candidate for candidate in candidates)]
        total = sum(candidate.confidence for candidate in candidates)
        if total == 0:
            output.append(best)
            continue
        xyxy = [sum(c.xyxy[i] * c.confidence for c in candidates) / total for i in range(4)]
        keypoints = [
            (
                sum(c.keypoints[k][0] * c.confidence for c in candidates) / total,
                sum(c.keypoints[k][1] * c.confidence for c in candidates) / total,
            )
            for k in range(len(best.keypoints))
        ]
        output.append(Box(best.class_id, best.confidence, xyxy, keypoints, best.place))
    return output


# To the frame


def point_in_frame(transform: Transform, x: float, y: float) -> tuple[float, float]:
    m = transform.matrix
    return (
        float(m[0, 0]) * x + float(m[0, 1]) * y + float(m[0, 2]),
        float(m[1, 0]) * x + float(m[1, 1]) * y + float(m[1, 2]),
    )


def box_in_frame(transform: Transform, xyxy: list[float]) -> list[float]:
    x0, y0, x1, y1 = xyxy
    corners = [point_in_frame(transform, x, y) for x in (x0, x1) for y in (y0, y1)]
    width, height = transform.frame_wh
    xs = [min(max(x, 0.0), width) for x, _ in corners]
    ys = [min(max(y, 0.0), height) for _, y in corners]
    return [min(xs), min(ys), max(xs), max(ys)]


def detections(
    boxes: list[Box],
    spec: SsdDecoder | SsdAnchorsDecoder | YoloDecoder,
    transform: Transform,
    min_confidence: float,
) -> list[Box]:
    """Candidates to what a decoder should find, best first."""
    confident = [box for box in boxes if box.confidence >= at_least(min_confidence) and box.is_sound()]
    confident.sort(key=lambda box: box.confidence, reverse=True)
    for place, box in enumerate(confident):
        box.place = place
    nms = weighted_nms if spec.nms == "weighted" else hard_nms
    kept = []
    for class_id in sorted({box.class_id for box in confident}):
        kept += nms([box for box in confident if box.class_id == class_id], spec.iou_threshold)
    kept.sort(key=lambda box: box.place)
    found = []
    for box in kept:
        xyxy = box_in_frame(transform, box.xyxy)
        if round(xyxy[0], 2) < round(xyxy[2], 2) and round(xyxy[1], 2) < round(xyxy[3], 2):
            keypoints = [point_in_frame(transform, x, y) for x, y in box.keypoints]
            found.append(Box(box.class_id, box.confidence, xyxy, keypoints))
    return found[: spec.max_detections]


# The others


def classes(
    info: TensorInfo, raw: Tensor, *, softmax: bool, top_k: int, min_confidence: float
) -> list[tuple[int, float]]:
    """(class id, confidence), best first."""
    values = [(class_id, real(info, value)) for class_id, value in enumerate(raw.ravel())]
    values = [(class_id, value) for class_id, value in values if math.isfinite(value)]
    if softmax and values:
        largest = max(value for _, value in values)
        powers = [(class_id, math.exp(value - largest)) for class_id, value in values]
        total = sum(power for _, power in powers)
        values = [(class_id, power / total) for class_id, power in powers]
    values = [(class_id, value) for class_id, value in values if value >= at_least(min_confidence)]
    return sorted(values, key=lambda pair: -pair[1])[:top_k]


def numbers(spec: RegressDecoder, info: TensorInfo, raw: Tensor) -> list[float]:
    values = [real(info, value) * spec.scale + spec.offset for value in raw.ravel()]
    return values if all(math.isfinite(value) for value in values) else []


def segments(
    spec: SegmentDecoder, info: TensorInfo, raw: Tensor, input_wh: tuple[int, int], transform: Transform
) -> dict[int, tuple[float, list[float]]]:
    """Class to (share, box): by asking for each cell of the map where its centre lies in the frame.

    The share is that of the cells that show the frame, times the share of the frame that the model sees.
    """
    maps = raw[0] if raw.ndim == 4 else raw[0][..., None]
    rows, columns, _ = maps.shape
    per_x, per_y = input_wh[0] / columns, input_wh[1] / rows
    width, height = transform.frame_wh
    seen = box_in_frame(transform, [0.0, 0.0, *map(float, input_wh)])
    seen_share = (seen[2] - seen[0]) * (seen[3] - seen[1]) / (width * height)
    visible = 0
    covered: dict[int, list[list[float]]] = {}
    for row in range(rows):
        for column in range(columns):
            x, y = point_in_frame(transform, (column + 0.5) * per_x, (row + 0.5) * per_y)
            if not (0 <= x <= width and 0 <= y <= height):
                continue
            visible += 1
            class_id = cell_class(spec, [real(info, value) for value in maps[row, column]])
            if class_id is not None:
                cell = [column * per_x, row * per_y, (column + 1) * per_x, (row + 1) * per_y]
                covered.setdefault(class_id, []).append(box_in_frame(transform, cell))
    found = {}
    for class_id, cells in covered.items():
        share = len(cells) / visible * seen_share
        box = [
            min(c[0] for c in cells),
            min(c[1] for c in cells),
            max(c[2] for c in cells),
            max(c[3] for c in cells),
        ]
        found[class_id] = (share, box)
    return found


def cell_class(spec: SegmentDecoder, values: list[float]) -> int | None:
    if len(values) > 1:
        best = best_class(values)
        return None if best is None else best[0]
    if not math.isfinite(values[0]):
        return None
    confidence = sigmoid(values[0]) if spec.softmax else values[0]
    return 0 if confidence >= at_least(spec.threshold) else None
