"""Finds a model's outputs by their shapes and names, and says in one line why they don't fit."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from agent.errors import ModelError
from agent.values import TensorInfo

_NUMBERS = frozenset(
    ("float16", "float32", "float64", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
)


class Outputs:
    """The outputs of a model, for one decoder. `infos` has them in the order of their tensors."""

    def __init__(self, decoder: str, infos: Sequence[TensorInfo]) -> None:
        """
        Raises:
            ModelError: an output has a scale that is no number over 0.
        """
        self._decoder = decoder
        # The scale of a float tensor is a leftover of training: its values are real already.
        self.infos = [replace(info, scale=0.0) if info.dtype.startswith("float") else info for info in infos]
        if not all(math.isfinite(info.scale) and info.scale >= 0 for info in self.infos):
            raise self.wrong("outputs with a scale over 0")

    def find(self, fits: Callable[[TensorInfo], bool]) -> list[int]:
        """Places of the outputs that hold numbers, have a batch of 1, and fit."""
        return [
            place
            for place, info in enumerate(self.infos)
            if info.dtype in _NUMBERS and info.shape[:1] == (1,) and min(info.shape) > 0 and fits(info)
        ]

    def only(self, fits: Callable[[TensorInfo], bool], expected: str) -> int:
        """Place of the one output that fits.

        Raises:
            ModelError: none fits, or several do.
        """
        places = self.find(fits)
        if len(places) != 1:
            raise self.wrong(expected)
        return places[0]

    def wrong(self, expected: str) -> ModelError:
        """The error that says what was expected, and what the model has."""
        shown = ", ".join(_described(info) for info in self.infos[:8])
        more = f" and {len(self.infos) - 8} more" if len(self.infos) > 8 else ""
        return ModelError(f"decoder {self._decoder}: expected {expected}, the model has {shown or 'no outputs'}{more}")


def _described(info: TensorInfo) -> str:
    name = "".join(char if char.isprintable() else "?" for char in info.name)
    shape = ", ".join(str(size) for size in info.shape)
    return f"{name[:60] or 'unnamed'} {info.dtype} ({shape})"


def label_of(labels: Sequence[str], class_id: int) -> str:
    """The label of a class; its number when it has none."""
    return labels[class_id] if class_id < len(labels) else str(class_id)
