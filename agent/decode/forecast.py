"""What comes next: normalised predictions back in the sensors' own units."""

import math
from collections.abc import Sequence

import numpy as np

from agent.decode.confidence import quietly
from agent.decode.outputs import Outputs
from agent.manifest import ForecastDecoder
from agent.values import Found, Tensor, TensorInfo, Transform


class Forecast:
    """Decodes the first output, steps x channels: value * std + mean of its channel, step by step.

    A place in the list has a meaning, so that no entry can be left out: if one is NaN or inf, there are no values.
    """

    def __init__(
        self,
        spec: ForecastDecoder,
        labels: Sequence[str],  # noqa: ARG002 - all decoders are made alike
        input_wh: tuple[int, int],  # noqa: ARG002
        outputs: Sequence[TensorInfo],
    ) -> None:
        """
        Raises:
            ModelError: the first output is no whole number of steps.
        """
        known = Outputs("forecast", outputs)
        channels = len(spec.mean)
        if 0 not in known.find(lambda info: math.prod(info.shape) % channels == 0):
            raise known.wrong(f"a first output of steps x {channels} channels")
        self._info = known.infos[0]
        self._mean, self._std = np.array(spec.mean), np.array(spec.std)

    @quietly
    def __call__(self, outputs: Sequence[Tensor], transform: Transform, min_confidence: float) -> Found:  # noqa: ARG002
        steps = self._info.dequantize(outputs[0]).reshape(-1, len(self._mean)).astype(np.float64)
        values = [float(f"{value:.7g}") for value in (steps * self._std + self._mean).reshape(-1).tolist()]
        return Found(values=values if all(map(math.isfinite, values)) else [])
