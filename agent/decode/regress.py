"""Numbers, such as a level, an angle or a count."""

import math
from collections.abc import Sequence

from agent.decode.confidence import quietly
from agent.decode.outputs import Outputs
from agent.manifest import RegressDecoder
from agent.values import Found, Tensor, TensorInfo, Transform


class Regress:
    """Decodes the first output: value * scale + offset, in its order, with the 7 significant digits of a float32.

    A place in the list has a meaning, so that no entry can be left out: if one is NaN or inf, there are no values.
    """

    def __init__(
        self,
        spec: RegressDecoder,
        labels: Sequence[str],  # noqa: ARG002 - all decoders are made alike
        input_wh: tuple[int, int],  # noqa: ARG002
        outputs: Sequence[TensorInfo],
    ) -> None:
        """
        Raises:
            ModelError: the first output does not hold numbers.
        """
        known = Outputs("regress", outputs)
        if 0 not in known.find(lambda _: True):
            raise known.wrong("numbers with a batch of 1 as first output")
        self._info = known.infos[0]
        self._spec = spec

    @quietly
    def __call__(self, outputs: Sequence[Tensor], transform: Transform, min_confidence: float) -> Found:  # noqa: ARG002
        real = self._info.dequantize(outputs[0].reshape(-1)).tolist()
        values = [float(f"{value * self._spec.scale + self._spec.offset:.7g}") for value in real]
        return Found(values=values if all(map(math.isfinite, values)) else [])
