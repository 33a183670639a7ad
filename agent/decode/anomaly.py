"""How unlike the usual a window is: the difference between what an autoencoder was given and what it gives back."""

import math
from collections.abc import Sequence

import numpy as np

from agent.decode.confidence import quietly
from agent.decode.outputs import Outputs
from agent.errors import ModelError
from agent.manifest import AnomalyDecoder
from agent.values import Anomaly as AnomalyFound
from agent.values import Found, Tensor, TensorInfo, Transform


class Anomaly:
    """Compares the first output with the model's input, which is given behind the outputs.

    The score is the highest mean error over `average_samples` samples in a row: averaging smooths what single samples
    of noise would raise.
    """

    def __init__(
        self,
        spec: AnomalyDecoder,
        labels: Sequence[str],  # noqa: ARG002 - all decoders are made alike
        input_wh: tuple[int, int],
        outputs: Sequence[TensorInfo],
    ) -> None:
        """
        Args:
            spec: threshold and kind of error.
            labels: not used.
            input_wh: channels and samples of a window.
            outputs: the model's outputs, then its input.

        Raises:
            ModelError: the first output has another size than the input.
        """
        known = Outputs("anomaly", outputs)
        self._shape = (input_wh[1], input_wh[0])
        fitting = known.find(lambda info: math.prod(info.shape) == math.prod(self._shape))
        if not {0, max(1, len(known.infos) - 1)} <= set(fitting):
            raise known.wrong(f"a first output of {self._shape[0]} x {self._shape[1]} values, as the input has")
        self._output, self._input = known.infos[0], known.infos[-1]
        self._spec = spec

    @quietly
    def __call__(self, outputs: Sequence[Tensor], transform: Transform, min_confidence: float) -> Found:  # noqa: ARG002
        given, back = self._input.dequantize(outputs[-1]), self._output.dequantize(outputs[0])
        apart = (back.reshape(self._shape) - given.reshape(self._shape)).astype(np.float64)
        errors = np.abs(apart) if self._spec.error == "mae" else apart * apart
        if not np.isfinite(errors).all():  # left out, it would look like a usual window
            raise ModelError("the model's output has numbers that are not finite")
        per_sample = errors.mean(axis=1)
        count = min(self._spec.average_samples or len(per_sample), len(per_sample))
        sums = np.cumsum(np.concatenate([[0.0], per_sample]))
        score = float(((sums[count:] - sums[:-count]) / count).max())
        return Found(anomaly=AnomalyFound(float(f"{score:.6g}"), self._spec.threshold, score > self._spec.threshold))
