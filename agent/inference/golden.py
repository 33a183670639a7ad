"""Golden samples: pictures, or windows of samples, in a bundle with the answers that the model gave where it was made.

A device tries them before a release goes live: one damaged model in five still loads and runs, and only tells something
else. `golden/expected.json`:

    {"min_confidence": 0.5, "samples": [{"input": "street.jpg", "found": {"detections": [...]}}, ...]}

with `found` as in results. Workers decode the pictures; the daemon never does.
"""

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from msgspec import UNSET, Meta

from agent.decode.boxes import iou
from agent.errors import ModelError
from agent.inference.protocol import Answer, GoldenSample
from agent.manifest import Golden, Share
from agent.runtime.files import write_atomic
from agent.runtime.npy import load_npy
from agent.runtime.text import one_line
from agent.values import Classification, Detection, Found, Image, Samples, Segment

EXPECTED = "expected.json"
MAX_EXPECTED_BYTES = 4 << 20
MAX_PICTURE_BYTES = 8 << 20
MAX_SIDE_PX = 4096
MAX_SAMPLES = 250

SAME_OBJECT_IOU = 0.5
"""Boxes of two models that overlap so much show the same object; as in PASCAL VOC."""
SAME_MODEL_IOU = 0.8
"""For a model and itself elsewhere. The face model reaches 0.998 between both runtimes; damaged in one convolution, it
still finds the same faces, and reaches 0.72 to 0.76."""
_MOST_BOXES = 100
"""Compared are the surest: a model that finds a thousand things must not hold up whoever compares."""
_NEAR = 0.05
"""A number agrees within this share of the largest expected one."""

InputName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,58}\.(png|jpg|npy)$")]


class Sample(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A picture and what the model says of it."""

    input: InputName
    found: Found


class Expected(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`expected.json`."""

    samples: Annotated[tuple[Sample, ...], Meta(min_length=1, max_length=MAX_SAMPLES)]
    min_confidence: Share = 0.5


@dataclass(frozen=True, slots=True)
class GoldenReport:
    """How a model did on all of its golden samples."""

    samples: int
    agreement: float
    """Mean over the samples, 0 to 1."""
    worst: str | None
    """Picture with the lowest agreement, if one is under 1."""
    infer_ms: tuple[float, ...]
    """One for each sample."""


def report_on(samples: Sequence[GoldenSample]) -> GoldenReport:
    """What the samples say together; at least one."""
    worst = min(samples, key=lambda sample: sample.agreement)
    return GoldenReport(
        samples=len(samples),
        agreement=sum(sample.agreement for sample in samples) / len(samples),
        worst=worst.input if worst.agreement < 1.0 else None,
        infer_ms=tuple(sample.infer_ms for sample in samples),
    )


# --- how alike two answers are ---------------------------------------------------------------------------------------


def agree(expected: Found, got: Found, min_iou: float = SAME_OBJECT_IOU) -> float:
    """How far two answers to one picture agree, 0 to 1; 0 if `got` has NaN or an infinite number.

    Detections: pairs of the same label whose boxes overlap by `min_iou`, over the larger count. Classes: the same first
    one. Values, and an anomaly's score: the share of those that are off by no more than 5 % of the largest expected
    one. Segments: the share of the frame that classes cover in both, their boxes overlapping by `min_iou`, over what
    they cover in either. Confidences are not compared.
    """
    if is_finite(got):
        return _agree(expected, got, min_iou)
    return 0.0


def _agree(expected: Found, got: Found, min_iou: float) -> float:
    if expected.detections is not UNSET and got.detections is not UNSET:
        return _boxes_agree(expected.detections, got.detections, min_iou)
    if expected.classes is not UNSET and got.classes is not UNSET:
        return float(_first(expected.classes) == _first(got.classes))
    if expected.values is not UNSET and got.values is not UNSET:
        return _values_agree(expected.values, got.values)
    if expected.anomaly is not UNSET and got.anomaly is not UNSET:
        return _values_agree([expected.anomaly.score], [got.anomaly.score])
    if expected.segments is not UNSET and got.segments is not UNSET:
        return _segments_agree(expected.segments, got.segments, min_iou)
    return 0.0  # another task


def is_finite(found: Found) -> bool:
    """Whether all numbers of an answer are; decoders see to that, a process whose memory a model has overwritten may
    not."""
    return all(map(math.isfinite, _numbers(found)))


def _numbers(found: Found) -> Iterator[float]:
    for detection in found.detections or ():
        yield detection.confidence
        yield from detection.xyxy
        for point in detection.keypoints or ():
            yield from point
    for classification in found.classes or ():
        yield classification.confidence
    yield from found.values or ()
    if found.anomaly is not UNSET:
        yield found.anomaly.score
    for segment in found.segments or ():
        yield segment.share
        yield from segment.xyxy


def _boxes_agree(expected: Sequence[Detection], got: Sequence[Detection], min_iou: float) -> float:
    expected, left = expected[:_MOST_BOXES], list(got[:_MOST_BOXES])
    most = max(len(expected), len(left))
    matched = 0
    for one in expected:
        overlaps = [(iou(one.xyxy, other.xyxy), place) for place, other in enumerate(left) if other.label == one.label]
        overlap, place = max(overlaps, default=(0.0, 0))
        if overlap >= min_iou:
            matched += 1
            del left[place]
    return matched / most if most else 1.0


def _first(classes: Sequence[Classification]) -> str | None:
    return classes[0].label if classes else None


def _values_agree(expected: Sequence[float], got: Sequence[float]) -> float:
    if len(expected) != len(got):
        return 0.0
    if not expected:
        return 1.0
    tolerance = _NEAR * max(map(abs, expected))
    return sum(abs(a - b) <= tolerance for a, b in zip(expected, got, strict=True)) / len(expected)


def _segments_agree(expected: Sequence[Segment], got: Sequence[Segment], min_iou: float) -> float:
    mine, theirs = {one.label: one for one in expected}, {one.label: one for one in got}
    shared = either = 0.0
    for label in mine.keys() | theirs.keys():
        a, b = mine.get(label), theirs.get(label)
        either += max(a.share if a else 0.0, b.share if b else 0.0)
        if a and b and iou(a.xyxy, b.xyxy) >= min_iou:
            shared += min(a.share, b.share)
    return shared / either if either else 1.0


# --- files -----------------------------------------------------------------------------------------------------------


class GoldenSet:
    """The golden samples of a bundle, one picture in memory at a time. For workers."""

    def __init__(self, bundle: Path, golden: Golden) -> None:
        """Raises ModelError: `expected.json` is missing, too large or wrong."""
        if "/" in golden.dir or golden.dir.startswith("."):
            raise ModelError(f"{bundle / 'manifest.yaml'}: golden.dir: expected a folder's name, got {golden.dir!r}")
        self._folder = bundle / golden.dir
        path = self._folder / EXPECTED
        try:
            expected = msgspec.json.decode(_read(path, MAX_EXPECTED_BYTES), type=Expected)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise ModelError(f"{path}: {one_line(str(exc))}; `edge-agent models golden` writes this file") from exc
        self.samples, self.min_confidence = expected.samples, expected.min_confidence

    def try_one(self, index: int, run: Callable[[Any, float], Answer]) -> tuple[Sample, float, Answer]:
        """One sample, how far the model agrees with it, and its answer.

        Raises:
            ModelError: there is no such sample, its picture can't be used, or the model failed on it.
        """
        if index >= len(self.samples):
            raise ModelError(f"{self._folder / EXPECTED}: no sample {index}")
        sample = self.samples[index]
        answer = run(load_input(self._folder / sample.input), self.min_confidence)
        return sample, agree(sample.found, answer.found, SAME_MODEL_IOU), answer


def load_input(path: Path) -> Image | Samples:
    """A picture, or the window of samples in a `.npy` file (float32, samples x channels). Raises ModelError."""
    if path.suffix != ".npy":
        return load_picture(path)
    try:
        window = load_npy(_read(path, MAX_PICTURE_BYTES))
    except ModelError:
        raise
    except ValueError as exc:
        raise ModelError(f"{path}: not a .npy file that can be read") from exc
    if window.dtype != np.float32 or window.ndim != 2:
        raise ModelError(f"{path}: expected float32, samples x channels")
    return np.ascontiguousarray(window)


def load_picture(path: Path) -> Image:
    """A picture as H x W x 3 BGR, uint8, of at most 8 MiB as a file and 4096 px a side.

    Raises:
        ModelError: it is missing, too large, or no picture.
    """
    import cv2

    data = _read(path, MAX_PICTURE_BYTES)
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    except cv2.error as exc:  # among others: no memory for what a few bytes claim to hold
        raise ModelError(f"{path}: not a picture that can be read") from exc
    if image is None:
        raise ModelError(f"{path}: not a picture that can be read")
    if max(image.shape) > MAX_SIDE_PX:
        raise ModelError(
            f"{path}: {image.shape[1]}x{image.shape[0]} px; expected a picture of at most {MAX_SIDE_PX} a side"
        )
    return np.asarray(image, np.uint8)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except OSError as exc:
        raise ModelError(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc
    if len(data) > max_bytes:
        raise ModelError(f"{path}: larger than {max_bytes >> 20} MiB")
    return data


def make_golden(
    folder: Path, pictures: Sequence[Path], run: Callable[[Any, float], Answer], min_confidence: float = 0.5
) -> Expected:
    """Write the golden samples of the bundle in `folder`, from what the model says now; its manifest needs a line
    `golden: {dir: golden}` beside it.

    Args:
        folder: the bundle's.
        pictures: PNG or JPEG (`.png`, `.jpg`), or windows of samples (`.npy`); copied as they are.
        run: `Worker.run` of a worker with this bundle.
        min_confidence: under which nothing is found.

    Raises:
        ModelError: a picture can't be used, two have one name, or the model failed on one.
        WorkerLost: the model's process died.
        OSError: a file could not be written.
    """
    found = {path.name: run(load_input(path), min_confidence).found for path in pictures}
    if len(found) != len(pictures):
        raise ModelError("two pictures have the same name; rename one")
    plain = {"min_confidence": min_confidence, "samples": [{"input": n, "found": f} for n, f in found.items()]}
    data = msgspec.json.format(msgspec.json.encode(plain), indent=1)
    try:
        expected = msgspec.json.decode(data, type=Expected)
    except msgspec.ValidationError as exc:
        raise ModelError(f"{exc}; name pictures in plain letters, ending in .png, .jpg or .npy") from exc
    target = folder / Golden().dir
    target.mkdir(exist_ok=True)
    for path in pictures:
        if path.resolve().parent != target.resolve():
            shutil.copyfile(path, target / path.name)
    write_atomic(target / EXPECTED, data + b"\n", mode=0o644)
    return expected
