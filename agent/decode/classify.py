"""One confidence for each class."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.decode.confidence import quietly, raw_floor, single, strongest
from agent.decode.outputs import Outputs, label_of
from agent.manifest import ClassifyDecoder
from agent.values import Classification, Found, Tensor, TensorInfo, Transform


class Classify:
    """Decodes the one output of size 1 x classes; further dimensions of 1 do not matter."""

    def __init__(
        self,
        spec: ClassifyDecoder,
        labels: Sequence[str],
        input_wh: tuple[int, int],  # noqa: ARG002 - all decoders are made alike
        outputs: Sequence[TensorInfo],
    ) -> None:
        """
        Raises:
            ModelError: no output, or more than one, has one value for each class.
        """
        known = Outputs("classify", outputs)
        if labels:
            expected = f"one output of {len(labels)} values, one for each label"
            self._place = known.only(lambda info: max(info.shape) == _size(info) == len(labels), expected)
        else:
            self._place = known.only(lambda info: max(info.shape) == _size(info), "one output of 1 x classes")
        self._info = known.infos[self._place]
        self._spec = spec
        self._labels = tuple(labels)

    @quietly
    def __call__(self, outputs: Sequence[Tensor], transform: Transform, min_confidence: float) -> Found:  # noqa: ARG002
        raw = outputs[self._place].reshape(-1)
        at_least = single(min_confidence)
        if self._spec.softmax:
            confidences = softmax(self._info.dequantize(raw))
            places = strongest(confidences, max(at_least, 0.0))  # what was NaN or inf has a confidence of -1
            survivors = confidences[places].tolist()
        else:
            places = strongest(raw, raw_floor(self._info, at_least))
            survivors = self._info.dequantize(raw[places]).tolist()
        ranked = sorted(zip(survivors, places.tolist(), strict=True), key=lambda pair: -pair[0])
        return Found(
            classes=[
                Classification(label_of(self._labels, class_id), class_id, round(confidence, 4))
                for confidence, class_id in ranked[: self._spec.top_k]
            ]
        )

    def log_confidences(self, outputs: Sequence[Tensor]) -> NDArray[np.float32]:
        """Natural logarithm of every class's confidence; what was not over 0 counts as 1e-6, NaN likewise."""
        values = self._info.dequantize(outputs[self._place].reshape(-1))
        confidences = softmax(values) if self._spec.softmax else np.nan_to_num(values).astype(np.float64)
        return np.log(np.clip(confidences, 1e-6, 1.0)).astype(np.float32, copy=False)


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logits of one dimension to confidences that add up to 1; NaN and infinite ones do not count and become -1."""
    finite = np.isfinite(logits)
    if not finite.any():
        return np.full(logits.shape, -1.0)
    wide = np.where(finite, logits, -np.inf).astype(np.float64)
    powers = np.exp(wide - wide.max())
    return np.where(finite, powers / powers.sum(), -1.0)


def _size(info: TensorInfo) -> int:
    return int(np.prod(info.shape))
