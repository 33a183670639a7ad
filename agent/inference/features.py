"""Between a model's outputs and its decoder: the embedding is taken out, and a head of the device's own put on top.

The head corrects what the model says instead of replacing it, so that a few labels are enough and nothing is forgotten
that they do not touch: `softmax(log(confidences) + embedding @ head[:-1] + head[-1])`, a logistic regression with the
model's own answer as offset (McCullagh and Nelder, Generalized Linear Models, 1989, section 4.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.decode.classify import Classify
from agent.errors import ModelError
from agent.manifest import MAX_EMBEDDING_VALUES, ClassifyDecoder, DecoderSpec, Manifest
from agent.runtime.npy import load_npy
from agent.values import Tensor, TensorInfo

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Read:
    """The outputs of one inference, for the decoder, and what stands behind them."""

    outputs: list[Tensor]
    embedding: Floats | None
    """N values."""
    log_confidences: Floats | None
    """One a class, where there are an embedding and classes."""


class Features:
    """Reads the outputs of one model."""

    def __init__(
        self, manifest: Manifest, outputs: Sequence[TensorInfo], labels: Sequence[str], head: bytes | None = None
    ) -> None:
        """
        Args:
            outputs: of the model.
            head: content of the file that the manifest names.

        Raises:
            ModelError: there is no such output, or the head is of another size.
        """
        self._place = _place_of(manifest.embedding, outputs)
        self.infos: list[TensorInfo] = [info for place, info in enumerate(outputs) if place != self._place]
        """What the decoder gets."""
        self._embedding = None if self._place is None else outputs[self._place]
        self._classes: Classify | None = None
        if isinstance(manifest.decoder, ClassifyDecoder) and self._embedding is not None:
            self._classes = Classify(manifest.decoder, labels, (0, 0), self.infos)
        self._head: Floats | None = None
        if head is not None and self._embedding is not None:
            self._head = _load_head(head, (int(np.prod(self._embedding.shape)) + 1, len(labels)))
            self.infos = [TensorInfo("head", (1, len(labels)), "float32")]

    def complete(self, spec: DecoderSpec) -> DecoderSpec:
        """The decoder for `infos`: a head gives logarithms."""
        if self._head is None or not isinstance(spec, ClassifyDecoder):
            return spec
        return msgspec.structs.replace(spec, softmax=True)

    def read(self, outputs: list[Tensor], *, evidence: bool) -> Read:
        """Take the outputs of one inference apart; views stay views.

        Args:
            evidence: the embedding and the confidences are wanted too.
        """
        if self._place is None or self._embedding is None or not (evidence or self._head is not None):
            return Read([one for place, one in enumerate(outputs) if place != self._place], None, None)
        embedding = self._embedding.dequantize(outputs[self._place]).reshape(-1).copy()
        rest = [one for place, one in enumerate(outputs) if place != self._place]
        logs = None if self._classes is None else self._classes.log_confidences(rest)
        if self._head is not None and logs is not None:
            logs = logs + np.nan_to_num(embedding) @ self._head[:-1] + self._head[-1]
            rest = [logs.reshape(1, -1)]
        return Read(rest, embedding, logs)


def _place_of(name: str | None, outputs: Sequence[TensorInfo]) -> int | None:
    if name is None:
        return None
    names = [info.name for info in outputs]
    if name not in names:
        raise ModelError(f"embedding: expected one of {', '.join(names)}, got {name!r}")
    info = outputs[names.index(name)]
    if not 0 < np.prod(info.shape) <= MAX_EMBEDDING_VALUES:
        raise ModelError(f"embedding: expected at most {MAX_EMBEDDING_VALUES} values, {name} has {info.shape}")
    return names.index(name)


def _load_head(content: bytes, shape: tuple[int, int]) -> Floats:
    try:
        head = load_npy(content)
    except ValueError as exc:
        raise ModelError(f"head: {exc}") from exc
    if head.shape != shape or head.dtype != np.float32:
        raise ModelError(f"head: expected float32 of {shape[0]} x {shape[1]}, the embedding and one x the classes")
    if not np.isfinite(head).all():
        raise ModelError("head: expected finite numbers")
    return head
