"""Ultralytics' TFLite exports of YOLO v5, v8 and v11."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.decode.boxes import make_detections
from agent.decode.confidence import class_peaks, quietly, raw_floor, single, strongest
from agent.decode.outputs import Outputs
from agent.manifest import YoloDecoder
from agent.values import Found, Tensor, TensorInfo, Transform


class Yolo:
    """Decodes v5: 1 x N x (4 + objectness + classes); v8 and v11: 1 x (4 + classes) x N; or either the other way round.

    As `non_max_suppression` of ultralytics/yolov5 and ultralytics/ultralytics with one class a box: boxes are centre x,
    centre y, width, height; the confidence is the best class's, in v5 times the objectness, which must itself reach
    the threshold.
    """

    def __init__(
        self, spec: YoloDecoder, labels: Sequence[str], input_wh: tuple[int, int], outputs: Sequence[TensorInfo]
    ) -> None:
        """
        Raises:
            ModelError: no output, or more than one, has such a shape, with one class for each label.
        """
        known = Outputs("yolo", outputs)
        self._has_objectness = spec.version == "v5"
        self._first_class = 5 if self._has_objectness else 4
        wide = f"{self._first_class} + {len(labels) or 'classes'}"
        expected = f"one output (1, N, {wide})" if self._has_objectness else f"one output (1, {wide}, N)"
        self._place = known.only(lambda info: self._fields_axis(info.shape, len(labels), input_wh) > 0, expected)
        self._info = known.infos[self._place]
        self._transpose = self._fields_axis(self._info.shape, len(labels), input_wh) == 2
        self._spec = spec
        self._labels = tuple(labels)
        width, height = input_wh if spec.normalized else (1, 1)
        self._to_input = np.array([width, height], dtype=np.float64)

    def _fields_axis(self, shape: tuple[int, ...], labels: int, input_wh: tuple[int, int]) -> int:
        """Which axis holds a box's fields: the version's own unless only the other one fits; 0 if none does."""
        if len(shape) != 3:
            return 0
        own, other = (2, 1) if self._has_objectness else (1, 2)
        classes = {axis: shape[axis] - self._first_class for axis in (own, other)}
        fitting = [axis for axis in (own, other) if (classes[axis] == labels if labels else classes[axis] > 0)]
        if len(fitting) == 2 and not labels:  # any size may be fields: does one leave as many boxes as the heads make?
            usual = _usual_boxes(input_wh, 3 if self._has_objectness else 1)
            fitting = [axis for axis in fitting if shape[3 - axis] in usual] or fitting
        return fitting[0] if fitting else 0

    @quietly
    def __call__(self, outputs: Sequence[Tensor], transform: Transform, min_confidence: float) -> Found:
        planes = outputs[self._place][0].T if self._transpose else outputs[self._place][0]
        at_least = single(min_confidence)
        if self._has_objectness:
            boxes, class_ids, confidences = self._with_objectness(planes, at_least)
        else:
            classes, peaks = class_peaks(planes[4:])
            boxes = strongest(peaks, raw_floor(self._info, at_least))
            class_ids = classes[:, boxes].argmax(axis=0)
            confidences = self._info.dequantize(peaks[boxes]).astype(np.float64)
        if not boxes.size:
            return Found(detections=[])
        found = make_detections(
            self._corners(self._info.dequantize(planes[:4, boxes])),
            confidences.tolist(),
            class_ids.tolist(),
            at_least=at_least,
            spec=self._spec,
            labels=self._labels,
            transform=transform,
        )
        return Found(detections=found)

    def _with_objectness(
        self, planes: Tensor, at_least: float
    ) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
        """Places, classes and confidences of the best boxes: objectness first, classes only where that passes."""
        floor = raw_floor(self._info, at_least)
        likely = np.flatnonzero((planes[4] >= floor) & (planes[4] < np.inf))
        classes, peaks = class_peaks(planes[5:, likely])
        objectness = self._info.dequantize(planes[4, likely]).astype(np.float64)
        confidences = objectness * self._info.dequantize(peaks)
        best = strongest(confidences, at_least)
        return likely[best], classes[:, best].argmax(axis=0), confidences[best]

    def _corners(self, raw: NDArray[np.float32]) -> NDArray[np.float64]:
        """4 x n centres and sizes to n x 4 corners in input pixels."""
        wide = raw.T.astype(np.float64)
        centre, half = wide[:, :2] * self._to_input, wide[:, 2:] * self._to_input / 2.0
        return np.concatenate((centre - half, centre + half), axis=1)


def _usual_boxes(input_wh: tuple[int, int], anchors: int) -> tuple[int, int]:
    """Boxes of the heads at strides 8, 16, 32, and of those with a fourth at 64."""
    cells = [(input_wh[0] // stride) * (input_wh[1] // stride) for stride in (8, 16, 32, 64)]
    return anchors * sum(cells[:3]), anchors * sum(cells)
