"""A model that takes a window step by step, looking from outside like one that takes it at once.

Streaming models (microWakeWord, recurrent networks) keep what they have heard in variables, or hand it from an output
to an input. Here every window begins anew: so a window's answer depends on nothing but the window, and trials, golden
samples and swaps need to know nothing of state.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.inference.interpreter import Interpreter
from agent.values import Tensor


class Stepped:
    """The same calls as an Interpreter; inputs[0] is the whole window, outputs are real values."""

    def __init__(
        self,
        interpreter: Interpreter,
        rows: int,
        columns: int,
        step_rows: int,
        average_steps: int | None,
        settle_steps: int = 0,
    ) -> None:
        """
        Args:
            interpreter: takes `step_rows` x `columns` at a time.
            rows: of a window; what is left over at its end, less than a step, is not looked at.
            columns: of a window.
            step_rows: at a time.
            average_steps: the highest mean of so many steps in a row counts; None: the last step.
            settle_steps: the answers of the first so many do not count.
        """
        self._interpreter, self._step_rows, self._average_steps = interpreter, step_rows, average_steps
        self._settle_steps = min(settle_steps, max(0, rows // step_rows - 1))
        self.runtime, self.warning = interpreter.runtime, interpreter.warning
        self.inputs = (replace(interpreter.inputs[0], shape=(1, rows, columns)), *interpreter.inputs[1:])
        self.outputs = tuple(replace(info, dtype="float32", scale=0.0, zero_point=0) for info in interpreter.outputs)
        self._window: Tensor = np.zeros((rows, columns), self.inputs[0].dtype)
        self._results: list[Tensor] = []

    def input_view(self, index: int = 0) -> Tensor:
        """The window, 1 x rows x columns; or another input."""
        return self._window[None] if index == 0 else self._interpreter.input_view(index)

    def invoke(self) -> None:
        """From a fresh state through the whole window. Raises ModelError."""
        interpreter, rows = self._interpreter, self._step_rows
        steps: list[list[NDArray[np.float32]]] = [[] for _ in self.outputs]
        interpreter.reset()
        for start in range(0, len(self._window) - rows + 1, rows):
            view = interpreter.input_view()
            view[...] = self._window[start : start + rows].reshape(view.shape)
            del view  # held, it would make `invoke` fail
            interpreter.invoke()
            for kept, info, result in zip(steps, interpreter.outputs, interpreter.output_views(), strict=True):
                kept.append(info.dequantize(result).copy())
            del result
        self._results = [self._sum_up(np.stack(kept)) for kept in steps]

    def output_views(self) -> list[Tensor]:
        """What the steps come to, in the outputs' shapes."""
        return self._results

    def _sum_up(self, steps: NDArray[np.float32]) -> Tensor:
        if self._average_steps is None:
            last: Tensor = steps[-1]
            return last
        steps = steps[self._settle_steps :]
        count = min(self._average_steps, len(steps))
        sums = np.cumsum(np.concatenate([np.zeros_like(steps[:1]), steps]), axis=0, dtype=np.float64)
        means = (sums[count:] - sums[:-count]) / count
        highest: Tensor = means.max(axis=0).astype(np.float32)
        return highest
