"""Model output to findings in frame pixels. numpy and plain Python only: no I/O, no clock, no state between frames.

    spec (manifest)   +   TensorInfo of the outputs   ->   make_decoder   ->   decoder(outputs, transform, ...) -> Found

A decoder is made once per model and called once per frame. The tensors it is given are views into the interpreter's
memory: it reads them, and returns plain Python values.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from agent.decode.anomaly import Anomaly
from agent.decode.classify import Classify
from agent.decode.forecast import Forecast
from agent.decode.regress import Regress
from agent.decode.segment import Segments
from agent.decode.ssd import Ssd
from agent.decode.ssd_anchors import SsdAnchors
from agent.decode.yolo import Yolo
from agent.manifest import (
    AnomalyDecoder,
    ClassifyDecoder,
    DecoderSpec,
    ForecastDecoder,
    RegressDecoder,
    SegmentDecoder,
    SsdAnchorsDecoder,
    SsdDecoder,
    YoloDecoder,
)
from agent.values import Found, Tensor, TensorInfo, Transform


class Decoder(Protocol):
    """Turns the outputs of one inference into what was found."""

    def __call__(self, outputs: Sequence[Tensor], transform: Transform, min_confidence: float) -> Found:
        """Decode one frame.

        Args:
            outputs: the model's outputs with their batch dimension of 1, in the order of the TensorInfos that the
                decoder was made with, in the model's dtypes. They are neither kept nor written to.
            transform: where the model's input lies in the frame.
            min_confidence: what is less certain is left out, 0 to 1. Segmentation and regression do not use it.

        Returns:
            Findings of the model's task, best first. Confidences have 4 digits, pixels 2. NaN and infinite entries
            of the outputs are left out. Boxes are clipped to the frame; those outside of it are left out.
        """


DECODERS: dict[type, Callable[[Any, Sequence[str], tuple[int, int], Sequence[TensorInfo]], Decoder]] = {
    ClassifyDecoder: Classify,
    SsdDecoder: Ssd,
    SsdAnchorsDecoder: SsdAnchors,
    YoloDecoder: Yolo,
    SegmentDecoder: Segments,
    RegressDecoder: Regress,
    AnomalyDecoder: Anomaly,
    ForecastDecoder: Forecast,
}
"""Decoder by the class of its section in the manifest."""


def make_decoder(
    spec: DecoderSpec, labels: Sequence[str], input_wh: tuple[int, int], outputs: Sequence[TensorInfo]
) -> Decoder:
    """The decoder that a manifest asks for, held against the model's outputs.

    Args:
        spec: the manifest's `decoder`.
        labels: label of each class; none: classes are called by their number.
        input_wh: width and height of the model's input, in pixels; of a window, its channels and samples.
        outputs: what the model says of its outputs, in the order in which their tensors will come; for `anomaly`, which
            compares, the input behind them.

    Raises:
        ModelError: count, shapes or dtypes of the outputs do not fit the spec or the labels.
    """
    return DECODERS[type(spec)](spec, labels, input_wh, outputs)
