"""What travels along the two paths: frozen values without behaviour of their own.

Arrays are numpy; everything else that crosses a process boundary is a msgspec struct.
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

Image: TypeAlias = NDArray[np.uint8]
"""A picture: H x W x 3 in BGR order (OpenCV's), or H x W gray; uint8."""

Samples: TypeAlias = NDArray[np.float32]
"""Samples of a microphone or of sensors: T x channels, float32, oldest first. Sound lies between -1 and 1; NaN stands
for a value that is missing."""

Tensor: TypeAlias = NDArray[Any]
"""A model's input or output as the runtime hands it out: its own dtype, not dequantised."""

Xyxy: TypeAlias = tuple[float, float, float, float]
"""A box by its left, top, right and bottom edge, in pixels of the source frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """One captured unit. The data is never written again once the frame is made."""

    data: Image | Samples
    """The picture, H x W x 3 BGR or H x W gray, uint8; or samples, T x channels, float32; C-contiguous."""
    index: int
    """Rises by one per frame that the source captured, from 0."""
    captured_ns: int
    """When it was captured, on the monotonic clock (`time.monotonic_ns`); of samples, the last one."""
    captured_at_ns: int
    """When it was captured, in Unix nanoseconds (UTC)."""
    position_ns: int | None = None
    """Position in a recording, from its start; None for a live source."""
    channels: tuple[str, ...] = ()
    """Names of the samples' channels; none: it is a picture."""
    rate_hz: float | None = None
    """How fast samples follow each other; None: as they come."""
    is_first: bool = False
    """These samples do not go on from those of the frame before: the source was opened anew, or lost some."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a model says about one of its inputs or outputs."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """numpy's name of the dtype: `float32`, `uint8`, `int8`, ..."""
    scale: float = 0.0
    """Quantisation step; 0 when the tensor is not quantised."""
    zero_point: int = 0

    def quantize(self, real: NDArray[np.floating[Any]]) -> Tensor:
        """Real values in this tensor's dtype, rounded to even and saturated; the shape stays."""
        if not self.dtype.startswith(("int", "uint")):
            return real.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps = np.rint(real / (self.scale or 1.0)) + self.zero_point
        quantised: Tensor = np.clip(steps, limits.min, limits.max).astype(self.dtype)
        return quantised

    def dequantize(self, values: Tensor) -> NDArray[np.float32]:
        """Real values of (a part of) this tensor, as float32 of the same shape."""
        if self.scale == 0.0:
            return values.astype(np.float32, copy=False)
        return (values.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale)


@dataclass(frozen=True, slots=True)
class Transform:
    """Where a point of the model's input lies in the source frame.

    `matrix` is 2 x 3, float64: `frame_px = matrix[:, :2] @ input_px + matrix[:, 2]`. It undoes resize, letterbox,
    crop, rotation and mirroring at once. Pixels are continuous: the left edge of the first pixel is 0.
    """

    matrix: NDArray[np.float64]
    input_wh: tuple[int, int]
    frame_wh: tuple[int, int]


MAX_WINDOW_VALUES = 1 << 24
"""65,536 samples of 256 channels; a minute of sound has fewer."""


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The windows of samples that a model takes; made of its manifest."""

    channels: tuple[str, ...]
    """Which of the source's, in this order; none: its first, whatever it is called (sound)."""
    samples: int
    stride: int
    """Samples from one window to the next."""
    rate_hz: float | None
    """Samples come at this rate, or are brought to it; None: each reading is a sample, as it comes."""
    max_gap_s: float
    """A missing value is taken to be the last one for so long."""
    keeps_missing: bool
    """A window with values that are missing all the same is handed over (they are NaN), not left out."""

    def __post_init__(self) -> None:
        """A worker says this, and its model may have taken it over: within what a manifest can ask for."""
        values = self.samples * max(1, len(self.channels))
        rate_hz = 1.0 if self.rate_hz is None else self.rate_hz
        if not (0 < values <= MAX_WINDOW_VALUES and 0 < self.stride <= MAX_WINDOW_VALUES):
            raise ValueError(f"expected a window of at most {MAX_WINDOW_VALUES} values")
        if not (0.0 < rate_hz <= 1e9 and self.max_gap_s >= 0.0):
            raise ValueError("expected a rate and a gap")


class Detection(msgspec.Struct, frozen=True):
    """One object in the frame."""

    label: str
    class_id: int
    confidence: float
    xyxy: Xyxy
    keypoints: tuple[tuple[float, float], ...] | UnsetType = UNSET
    """Points that the model gives with the box, (x, y) in pixels of the source frame."""


class Classification(msgspec.Struct, frozen=True):
    """One class that the whole frame may show."""

    label: str
    class_id: int
    confidence: float


class Segment(msgspec.Struct, frozen=True):
    """One class of a segmentation: the share of the frame it covers, and the box around it."""

    label: str
    class_id: int
    share: float
    xyxy: Xyxy


class Anomaly(msgspec.Struct, frozen=True):
    """How unlike the usual a window of samples is."""

    score: float
    """In the unit of the model's own error; 0 is just as usual."""
    threshold: float
    """From the manifest."""
    is_anomaly: bool
    """The score is over the threshold."""


class Found(msgspec.Struct, frozen=True):
    """What a decoder says of one frame: exactly one of these is set, by the task of the model."""

    detections: list[Detection] | UnsetType = UNSET
    """Highest confidence first."""
    classes: list[Classification] | UnsetType = UNSET
    """Highest confidence first."""
    values: list[float] | UnsetType = UNSET
    segments: list[Segment] | UnsetType = UNSET
    """Largest share first."""
    anomaly: Anomaly | UnsetType = UNSET


class Timing(msgspec.Struct, frozen=True):
    """How long the steps of one frame took, in milliseconds."""

    preprocess: float
    infer: float
    decode: float
    total: float


@dataclass(frozen=True, slots=True)
class OutboundMessage:
    """Bytes for a topic."""

    topic: str
    payload: bytes
    in_chain: bool = True
    """A JSON object of the durable stream: the outbox gives it `seq` and `prev`. False: stored as it is."""
    retain: bool = False
    content_type: str = "application/json"
    user_properties: tuple[tuple[str, str], ...] = ()
