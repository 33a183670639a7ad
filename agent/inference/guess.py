"""A manifest guessed from what a model file shows: shapes, quantisation, metadata, and one trial run.

Every guess comes with what it rests on, so that the reader can judge it. What no file says (how pictures were resized
in training, for instance) follows the family that the model seems to belong to, and is marked as a guess. A decoder is
suggested only when it accepts the model's outputs.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent.decode import make_decoder
from agent.errors import ModelError
from agent.inference.metadata import Metadata, TensorMetadata
from agent.manifest import VERSION_PATTERN, DecoderSpec, Manifest
from agent.values import TensorInfo

Shapes = tuple[TensorInfo, ...]


@dataclass(frozen=True, slots=True)
class Tried:
    """Real values of one output after one run on an input of zeros."""

    low: float
    high: float
    adds_to_one: bool
    """Along the last axis: what softmax gives."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A manifest, or why there is none."""

    manifest: dict[str, Any] = field(default_factory=dict)
    """Passes agent.manifest.Manifest; empty when none fits."""
    reasons: dict[str, str] = field(default_factory=dict)
    """What values rest on, by their dotted keys."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class _Family:
    """A kind of model: its decoder, and how pictures are made for it."""

    task: str
    decoder: dict[str, Any]
    reason: str
    resize: str
    sampling: str = "half_pixel"
    pad_value: int = 0
    mean_std: tuple[float, float] | None = None
    reasons: dict[str, str] = field(default_factory=dict)
    """For keys of the decoder."""


_MEDIAPIPE = (
    ("face detection (short range)", (8, 16, 16, 16), 1.0, 6, (127.5, 127.5)),
    ("face detection (back camera)", (16, 32, 32, 32), 1.0, 6, (127.5, 127.5)),
    ("face detection (full range)", (4,), 0.0, 6, (127.5, 127.5)),
    ("palm detection", (8, 16, 16, 16), 1.0, 7, (0.0, 255.0)),
    ("pose detection", (8, 16, 32, 32, 32), 1.0, 4, (127.5, 127.5)),
)
"""Strides, interpolated_scale_aspect_ratio, keypoints, mean and std, from the graphs in mediapipe/modules."""

_TF_SSD = {
    "type": "ssd_anchors", "strides": [16, 32, 64, 128, 256, 512], "min_scale": 0.2, "max_scale": 0.95,
    "aspect_ratios": [1.0, 2.0, 0.5, 3.0, 0.3333], "reduce_boxes_in_lowest_layer": True, "x_scale": 10.0,
    "y_scale": 10.0, "w_scale": 5.0, "h_scale": 5.0, "apply_exponential_on_box_size": True, "ignore_classes": [0],
}  # fmt: skip
"""TensorFlow Object Detection API: ssd_mobilenet_*_coco.config."""


def suggest(name: str, inputs: Shapes, outputs: Shapes, tried: tuple[Tried, ...], said: Metadata) -> Suggestion:
    """A manifest that fits. `tried` has one entry for each output, or none at all."""
    size = _picture_size(inputs[0])
    if isinstance(size, str):
        return Suggestion(problem=size)
    width, height, channels = size
    family, labels = _family(outputs, tried, said.labels, (width, height))
    if family is None:
        return Suggestion(problem=f"the outputs {_shown(outputs)} fit no decoder")
    about = said.inputs[0] if said.inputs else None
    color, color_reason = _color(channels, about)
    mean, std, value_reason = _values(inputs[0], channels, about, family)
    has_version = re.fullmatch(VERSION_PATTERN, said.version) is not None
    given = {
        "width_px": width, "height_px": height, "color": color, "resize": family.resize, "sampling": family.sampling,
        "pad_value": family.pad_value, "mean": list(mean), "std": list(std),
    }  # fmt: skip
    if len(inputs) > 1:
        color_reason += f"; the model has {len(inputs)} inputs, only the first one is fed"
    manifest = {
        "name": re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40].strip("-") or "model",
        "version": said.version if has_version else "1",
        "task": family.task,
        "input": given,
        "decoder": family.decoder,
        "labels": "labels.txt" if labels else None,
    }
    reasons = {
        "name": "from the name of the file",
        "version": "from the metadata" if has_version else "guess: the metadata give none",
        "input.color": color_reason,
        "input.resize": "guess: usual for such models; no file says it",
        "input.sampling": "as MediaPipe does"
        if family.sampling == "corner"
        else "guess: as OpenCV and TensorFlow 2 do",
        "input.mean": value_reason,
        "decoder.type": family.reason,
        "labels": _labels_reason(said.labels, labels),
        **{f"decoder.{key}": reason for key, reason in family.reasons.items()},
    }
    try:
        msgspec.convert(manifest | {"input": {"type": "image", **given}}, Manifest)
    except msgspec.ValidationError as exc:
        return Suggestion(problem=str(exc))
    return Suggestion(manifest, reasons)


def _shown(outputs: Shapes) -> str:
    return " and ".join("x".join(map(str, tensor.shape)) or "()" for tensor in outputs[:4])


def _labels_reason(there: tuple[str, ...], fitting: tuple[str, ...]) -> str:
    if fitting:
        return f"in the model file: {len(fitting)}; write them to labels.txt, one a line"
    if there:
        return f"the file has {len(there)} labels, but the outputs have another number of classes"
    return "the file has none; write labels.txt, one a line, and name it here"


def _picture_size(tensor: TensorInfo) -> tuple[int, int, int] | str:
    """Width, height, channels; or why this is no picture."""
    shape = (*tensor.shape, 1) if len(tensor.shape) == 3 else tensor.shape
    if len(shape) == 4 and shape[0] == 1 and shape[3] in (1, 3):
        if tensor.dtype not in ("float32", "uint8", "int8"):
            return f"the input takes {tensor.dtype}; pictures can be made float32, uint8 and int8"
        return shape[2], shape[1], shape[3]
    if len(shape) == 4 and shape[0] == 1 and shape[1] in (1, 3):
        return "the input has its channels first, as in PyTorch; convert the model so that they come last"
    return "the input is no picture (1 x height x width x 1 or 3)"


def _color(channels: int, about: TensorMetadata | None) -> tuple[str, str]:
    if channels == 1:
        return "gray", "the input has one channel"
    if about is not None and about.color == "rgb":
        return "rgb", "from the metadata"
    return "rgb", "guess: nearly all TFLite models take RGB"


def _values(
    tensor: TensorInfo, channels: int, about: TensorMetadata | None, family: _Family
) -> tuple[tuple[float, ...], tuple[float, ...], str]:
    """mean, std and what they rest on: quantisation, metadata, family."""
    if tensor.dtype in ("uint8", "int8"):
        shift = 128 if tensor.dtype == "int8" else 0
        reason = "from the quantisation: pixel values go in as they are" + (" minus 128" if shift else "")
        std = float(f"{1.0 / tensor.scale:.6g}") if tensor.scale > 0 else 1.0  # 255, not 254.99998
        return (float(tensor.zero_point + shift),), (std,), reason
    if about is not None and _usable(about, channels):
        return about.mean, about.std, "from the metadata"
    if family.mean_std is not None:
        mean, std = family.mean_std
        return (mean,), (std,), "guess: usual for such models"
    return (127.5,), (127.5,), "guess: -1 to 1; try also 0 and 255 (0 to 1), 0 and 1 (the model scales by itself)"


def _usable(about: TensorMetadata, channels: int) -> bool:
    counts_fit = len(about.mean) in (1, channels) and len(about.std) in (1, channels)
    return counts_fit and all(map(math.isfinite, (*about.mean, *about.std))) and min(about.std) > 0


def _family(
    outputs: Shapes, tried: tuple[Tried, ...], labels: tuple[str, ...], wh: tuple[int, int]
) -> tuple[_Family | None, tuple[str, ...]]:
    """The first family whose decoder accepts the outputs, with the labels if they fit as well."""
    for family in _families(outputs, tried[0] if tried else None, labels, wh):
        decoder = msgspec.convert(family.decoder, DecoderSpec)
        for some_labels in dict.fromkeys((labels, ())):
            try:
                make_decoder(decoder, some_labels, wh, outputs)
            except ModelError:
                continue
            return family, () if family.task == "regress" else some_labels
    if len(outputs) == 2 and all(len(tensor.shape) == 3 for tensor in outputs):
        text = "fit no grid that is known here: take these options from where the model was trained"
        return _Family("detect", _TF_SSD, f"outputs {_shown(outputs)}: boxes and scores, but {text}", "stretch"), ()
    return None, ()


def _families(outputs: Shapes, tried: Tried | None, labels: tuple[str, ...], wh: tuple[int, int]) -> Iterator[_Family]:
    """All that the outputs look like, most telling first."""
    shown, shape = _shown(outputs), outputs[0].shape[1:]
    if len(outputs) >= 4:
        reason = f"outputs {shown}: TensorFlow's detection post-process"
        yield _Family("detect", {"type": "ssd"}, reason, "stretch", mean_std=(127.5, 127.5))
    if len(outputs) == 2:
        yield from _anchor_families(shown, wh)
    if len(outputs) == 1 and len(shape) == 2:
        yield from _yolo_families(shape, shown, wh)
    if len(shape) == 3 and min(shape[:2]) > 1:
        softmax, why = _logits(tried)
        what = "one map" if shape[2] == 1 else f"a map for each of {shape[2]} classes"
        decoder = {"type": "segment", "softmax": softmax}
        yield _Family("segment", decoder, f"output {shown}: {what}", "stretch", reasons={"softmax": why})
    count = math.prod(shape)
    if count == max(shape, default=0) > 0:
        yield from _row_families(outputs[0].name, count, tried, labels)


def _anchor_families(shown: str, wh: tuple[int, int]) -> Iterator[_Family]:
    width, height = map(float, wh)
    for what, strides, ratio, points, mean_std in _MEDIAPIPE:
        decoder = {
            "type": "ssd_anchors", "strides": list(strides), "interpolated_scale_aspect_ratio": ratio,
            "fixed_anchor_size": True, "x_scale": width, "y_scale": height, "w_scale": width, "h_scale": height,
            "score_clipping_thresh": 100.0, "num_keypoints": points, "reverse_output_order": True,
            "iou_threshold": 0.3, "nms": "weighted",
        }  # fmt: skip
        reason = f"outputs {shown}: the anchors of MediaPipe's {what}"
        reasons = {"num_keypoints": f"{4 + 2 * points} values an anchor: 4 for the box, 2 for each point"}
        yield _Family("detect", decoder, reason, "letterbox", "corner", mean_std=mean_std, reasons=reasons)
    reason = f"outputs {shown}: the anchors of TensorFlow's SSD with six layers"
    reasons = {"ignore_classes": "guess: class 0 is the background"}
    yield _Family("detect", _TF_SSD, reason, "stretch", mean_std=(127.5, 127.5), reasons=reasons)


def _yolo_families(shape: tuple[int, ...], shown: str, wh: tuple[int, int]) -> Iterator[_Family]:
    cells = sum((wh[0] // stride) * (wh[1] // stride) for stride in (8, 16, 32))
    version, reasons = "v8", {"version": "v11 looks and works the same"}
    if shape[0] == 3 * cells:
        version, reasons = "v5", {}
        what = f"3 anchors in each cell, with box, objectness and {shape[1] - 5} classes"
    elif shape[1] == cells:
        what = f"each cell with box and {shape[0] - 4} classes"
    else:
        return
    reason, decoder = f"output {shown}: {what}", {"type": "yolo", "version": version}
    yield _Family("detect", decoder, reason, "letterbox", pad_value=114, mean_std=(0.0, 255.0), reasons=reasons)


def _row_families(name: str, count: int, tried: Tried | None, labels: tuple[str, ...]) -> Iterator[_Family]:
    """One row of numbers: classes, or quantities?"""
    softmax, why = _logits(tried)
    classify = {"type": "classify", "top_k": min(5, count), "softmax": softmax}
    reasons = {"softmax": why}
    if count == len(labels):
        telling = "there are as many labels"
    elif count > 1 and tried is not None and tried.adds_to_one:
        telling = "they add to 1 on a trial run"
    elif re.search(r"softmax|prob|class|score|logit|label", name.lower()):
        telling = "the output's name says classes"
    elif count >= 10:
        telling = "guess: so many are mostly classes; for quantities use task and type regress"
    else:
        telling = ""
    if telling:
        yield _Family("classify", classify, f"{count} numbers: {telling}", "stretch", reasons=reasons)
    text = (
        f"guess: {count} numbers in the first output, without a sign of classes; for those use task and type classify"
    )
    yield _Family("regress", {"type": "regress"}, text, "stretch")


def _logits(tried: Tried | None) -> tuple[bool, str]:
    """Whether the values still need softmax or sigmoid, and how that shows."""
    if tried is None:
        return False, "guess: the trial run failed"
    if tried.adds_to_one:
        return False, "the values add to 1 on a trial run"
    if tried.low < 0.0 or tried.high > 1.0:
        return True, f"values of {tried.low:.3g} to {tried.high:.3g} on a trial run are no confidences"
    return False, "guess: values lay between 0 and 1 on a trial run"
