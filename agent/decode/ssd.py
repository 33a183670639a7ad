"""TensorFlow's detection post-process: the model itself decodes and suppresses, and gives four outputs."""

import math
from collections.abc import Sequence

import numpy as np

from agent.decode.boxes import make_detections
from agent.decode.confidence import quietly, raw_floor, single, strongest
from agent.decode.outputs import Outputs
from agent.manifest import SsdDecoder
from agent.values import Found, Tensor, TensorInfo, Transform

_MAX_CLASS_ID = 2**31 - 1


class Ssd:
    """Decodes boxes 1 x N x 4 (top, left, bottom, right; shares of the input), classes and scores 1 x N, and count 1.

    As tensorflow/lite/kernels/detection_postprocess.cc writes them. The manifest's NMS comes on top of the model's own.
    """

    def __init__(
        self, spec: SsdDecoder, labels: Sequence[str], input_wh: tuple[int, int], outputs: Sequence[TensorInfo]
    ) -> None:
        """
        Raises:
            ModelError: the four outputs are not there, or classes and scores can't be told apart.
        """
        known = Outputs("ssd", outputs)
        self._boxes, self._classes, self._scores, self._count = _tell_apart(known)
        self._infos = known.infos
        self._spec = spec
        self._labels = tuple(labels)
        width, height = input_wh
        self._to_input = np.array([width, height, width, height], dtype=np.float64)

    @quietly
    def __call__(self, outputs: Sequence[Tensor], transform: Transform, min_confidence: float) -> Found:
        count = float(self._real(self._count, outputs[self._count].reshape(-1))[0])
        used = max(0, int(count)) if math.isfinite(count) else 0
        at_least = single(min_confidence)
        scores = outputs[self._scores][0, :used]
        rows = strongest(scores, raw_floor(self._infos[self._scores], at_least))
        if not rows.size:
            return Found(detections=[])
        class_ids = self._real(self._classes, outputs[self._classes][0][rows])
        known = (class_ids > -0.5) & (class_ids < _MAX_CLASS_ID)  # also drops NaN
        rows = rows[known]
        boxes = self._real(self._boxes, outputs[self._boxes][0][rows]).astype(np.float64)
        found = make_detections(
            boxes[:, [1, 0, 3, 2]] * self._to_input,
            self._real(self._scores, scores[rows]).tolist(),
            np.rint(class_ids[known]).astype(np.int64).tolist(),
            at_least=at_least,
            spec=self._spec,
            labels=self._labels,
            transform=transform,
        )
        return Found(detections=found)

    def _real(self, place: int, raw: Tensor) -> Tensor:
        return self._infos[place].dequantize(raw)


def _tell_apart(known: Outputs) -> tuple[int, int, int, int]:
    """Places of boxes, classes, confidences and count: by shape, then by name, then by the two orders in use."""
    expected = "boxes (1, N, 4), classes (1, N), scores (1, N) and count (1)"
    boxes = known.only(lambda info: len(info.shape) == 3 and info.shape[2] == 4, expected)
    entries = known.infos[boxes].shape[1]
    pair = known.find(lambda info: info.shape == (1, entries))
    counts = known.find(lambda info: max(info.shape) == 1)
    if entries == 1:  # all three look alike
        pair, counts = _split_single(known, counts)
    if len(pair) != 2 or len(counts) != 1:
        raise known.wrong(expected)
    for first, second in (pair, pair[::-1]):
        if _is_classes(known.infos[first].name) or _is_scores(known.infos[second].name):
            return boxes, first, second, counts[0]
    match (boxes, counts[0]):
        case (0, 3):  # TensorFlow 1, and the order in which the operator itself writes
            return boxes, pair[0], pair[1], counts[0]
        case (1, 2):  # TensorFlow 2: scores, boxes, count, classes (pycoral, adapters/detect.py:get_objects)
            return boxes, pair[1], pair[0], counts[0]
    raise known.wrong(f"{expected}, with names or an order that tell classes from scores")


def _split_single(known: Outputs, places: list[int]) -> tuple[list[int], list[int]]:
    """With room for one box only: which two of three single values are class and score, and which is the count."""
    counts = [place for place in places if _is_count(known.infos[place].name) or known.infos[place].shape == (1,)]
    return [place for place in places if place not in counts], counts


# Numbered names: TensorFlow 1 numbers boxes, classes, scores, count; TensorFlow 2 the other way round.
def _is_classes(name: str) -> bool:
    lower = name.lower()
    return "class" in lower or "categor" in lower or lower.endswith(("postprocess:1", "partitionedcall:2"))


def _is_scores(name: str) -> bool:
    lower = name.lower()
    return "score" in lower or "confidence" in lower or lower.endswith(("postprocess:2", "partitionedcall:1"))


def _is_count(name: str) -> bool:
    lower = name.lower()
    return "num" in lower or "count" in lower or lower.endswith(("postprocess:3", "partitionedcall:0"))
