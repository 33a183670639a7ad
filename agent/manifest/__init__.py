"""What a model says about itself: `manifest.yaml` of a bundle.

The manifest holds everything that is needed to use the model and that the model file itself does not say. Tensor
shapes, dtypes, scales and zero points come from the model file.
"""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from agent.errors import ModelError
from agent.runtime.units import ByteSize
from agent.runtime.yamlfile import DocumentError, load_document

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}$"
"""Names that may stand in a topic: models, pipelines, devices, groups."""

VERSION_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,62}$"
"""Versions name folders: no separators, no leading dot."""

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Version = Annotated[str, Meta(pattern=VERSION_PATTERN)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Positive = Annotated[float, Meta(gt=0.0, le=1e9)]
Task = Literal["detect", "classify", "regress", "segment"]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Common to all parts: immutable, and a key that nobody knows is an error."""


class CropStep(_Section, frozen=True, tag_field="op", tag="crop"):
    """Keep a region of the frame; edges as shares of its width and height."""

    xyxy: tuple[Share, Share, Share, Share]

    def __post_init__(self) -> None:
        if not (self.xyxy[0] < self.xyxy[2] and self.xyxy[1] < self.xyxy[3]):
            raise ValueError("expected left < right and top < bottom")


class RotateStep(_Section, frozen=True, tag_field="op", tag="rotate"):
    """Turn the frame clockwise."""

    degrees: Literal[90, 180, 270]


class FlipStep(_Section, frozen=True, tag_field="op", tag="flip"):
    """Mirror the frame: left and right change places (`horizontal`), or top and bottom (`vertical`)."""

    axis: Literal["horizontal", "vertical"]


class DenoiseStep(_Section, frozen=True, tag_field="op", tag="denoise"):
    """Remove noise: a median filter, or fast non-local means (better, and very much slower)."""

    method: Literal["median", "nlm"] = "median"
    size_px: Literal[3, 5, 7] = 3
    """Side of the median's window, or of the patches that non-local means compares."""
    strength: Annotated[float, Meta(gt=0.0, le=100.0)] = 3.0
    """Filter strength h of non-local means, in gray levels; the median does not use it."""


class EqualizeStep(_Section, frozen=True, tag_field="op", tag="equalize"):
    """Lift local contrast: CLAHE on the luma channel."""

    clip_limit: Annotated[float, Meta(gt=0.0, le=100.0)] = 2.0
    tiles: Annotated[int, Meta(ge=1, le=64)] = 8
    """Tiles a side."""


class GammaStep(_Section, frozen=True, tag_field="op", tag="gamma"):
    """Brighten (over 1) or darken (under 1): out = 255 * (in / 255) ** (1 / gamma)."""

    gamma: Annotated[float, Meta(gt=0.0, le=10.0)]


Step = CropStep | RotateStep | FlipStep | DenoiseStep | EqualizeStep | GammaStep


class InputSpec(_Section, frozen=True):
    """How a frame becomes the model's input."""

    width_px: Annotated[int, Meta(ge=1, le=4096)]
    height_px: Annotated[int, Meta(ge=1, le=4096)]
    color: Literal["rgb", "bgr", "gray"] = "rgb"
    resize: Literal["letterbox", "crop", "stretch"] = "letterbox"
    """`letterbox` keeps everything and pads; `crop` fills and cuts off what sticks out, evenly; `stretch` distorts."""
    sampling: Literal["half_pixel", "corner"] = "half_pixel"
    """Where the resize takes its samples: as OpenCV and TensorFlow 2 do, or as MediaPipe does."""
    pad_value: Annotated[int, Meta(ge=0, le=255)] = 0
    """Gray level of the letterbox's border."""
    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=3)] = (0.0,)
    """Subtracted from the pixel values 0-255: one for all channels, or one for each."""
    std: Annotated[tuple[Positive, ...], Meta(min_length=1, max_length=3)] = (1.0,)
    """What the difference is divided by: one for all channels, or one for each."""
    steps: tuple[Step, ...] = ()
    """Done in this order, on the whole frame, before the resize."""

    def __post_init__(self) -> None:
        channels = 1 if self.color == "gray" else 3
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, channels):
                raise ValueError(f"{key}: expected 1 value or {channels} for color {self.color}, got {len(values)}")


class _BoxDecoder(_Section, frozen=True):
    """Options of every decoder that makes boxes."""

    iou_threshold: Share = 0.5
    """Boxes of one class that overlap more than this are taken for the same object."""
    max_detections: Annotated[int, Meta(ge=1, le=1000)] = 100
    nms: Literal["hard", "weighted"] = "hard"
    """`hard` keeps the best of overlapping boxes; `weighted` averages them by confidence, as MediaPipe does."""


class ClassifyDecoder(_Section, frozen=True, tag_field="type", tag="classify"):
    """One confidence for each class."""

    top_k: Annotated[int, Meta(ge=1, le=1000)] = 5
    softmax: bool = False
    """The model gives logits: turn them into confidences."""


class SsdDecoder(_BoxDecoder, frozen=True, tag_field="type", tag="ssd"):
    """TensorFlow's detection post-process, NMS included: boxes, classes, confidences, count."""


class SsdAnchorsDecoder(_BoxDecoder, frozen=True, tag_field="type", tag="ssd_anchors"):
    """Raw boxes and logits over a grid of anchors.

    Options and defaults are those of MediaPipe's SsdAnchorsCalculatorOptions and
    TensorsToDetectionsCalculatorOptions (mediapipe/calculators/tflite/ssd_anchors_calculator.proto,
    mediapipe/calculators/tensor/tensors_to_detections_calculator.proto), where the grid and the boxes are defined.
    """

    strides: Annotated[tuple[Annotated[int, Meta(ge=1)], ...], Meta(min_length=1, max_length=16)] = (8, 16, 16, 16)
    num_layers: Annotated[int, Meta(ge=1, le=16)] | None = None
    """Default: as many as there are strides."""
    min_scale: Positive = 0.1484375
    max_scale: Positive = 0.75
    aspect_ratios: Annotated[tuple[Positive, ...], Meta(max_length=16)] = (1.0,)
    anchor_offset_x: float = 0.5
    anchor_offset_y: float = 0.5
    interpolated_scale_aspect_ratio: Annotated[float, Meta(ge=0.0)] = 1.0
    """Over 0: one more anchor a cell, of the mean scale of this layer and the next, with this aspect ratio."""
    reduce_boxes_in_lowest_layer: bool = False
    fixed_anchor_size: bool = False
    """All anchors are 1 x 1 (of the input); the model predicts sizes outright."""
    x_scale: Positive = 1.0
    y_scale: Positive = 1.0
    w_scale: Positive = 1.0
    h_scale: Positive = 1.0
    apply_exponential_on_box_size: bool = False
    score_clipping_thresh: Positive | None = None
    """Logits are held between minus and plus this."""
    sigmoid_score: bool = True
    num_keypoints: Annotated[int, Meta(ge=0, le=256)] = 0
    keypoint_coord_offset: Annotated[int, Meta(ge=0)] = 4
    reverse_output_order: bool = False
    """Boxes and keypoints are x first (BlazeFace); false: y first (SSD of the TensorFlow Object Detection API)."""
    ignore_classes: tuple[int, ...] = ()


class YoloDecoder(_BoxDecoder, frozen=True, kw_only=True, tag_field="type", tag="yolo"):
    """Outputs of Ultralytics' TFLite exports."""

    version: Literal["v5", "v8", "v11"]
    """v5: N x (4 + objectness + classes); v8 and v11: (4 + classes) x N. Boxes are centre and size."""
    normalized: bool = True
    """Box coordinates are shares of the input (Ultralytics' TFLite exports); false: input pixels."""


class SegmentDecoder(_Section, frozen=True, tag_field="type", tag="segment"):
    """A map of confidences, H x W x classes, or H x W x 1 for "it is, or it is not"."""

    softmax: bool = False
    """The maps are logits: softmax over classes, or sigmoid for a single map."""
    threshold: Share = 0.5
    """For a single map: from this confidence on a pixel belongs to the class."""
    min_share: Share = 0.001
    """Classes that cover less of the frame are left out."""
    ignore_classes: tuple[int, ...] = ()
    """Such as the background."""


class RegressDecoder(_Section, frozen=True, tag_field="type", tag="regress"):
    """Numbers: value * scale + offset, in the order of the model's first output."""

    scale: float = 1.0
    offset: float = 0.0


DecoderSpec = ClassifyDecoder | SsdDecoder | SsdAnchorsDecoder | YoloDecoder | SegmentDecoder | RegressDecoder


class Golden(_Section, frozen=True):
    """Inputs with expected outputs, tried on the device before a release goes live."""

    dir: str = "golden"
    min_agreement: Share = 0.99


class Limits(_Section, frozen=True):
    """What the model may take."""

    max_infer_ms: Positive | None = None
    """A frame that takes longer counts against the model in its trial."""
    max_memory_bytes: ByteSize | None = None


class Manifest(_Section, frozen=True):
    """`manifest.yaml`: all that is needed to use the model."""

    name: Name
    version: Version
    task: Task
    input: InputSpec
    decoder: DecoderSpec
    labels: str | None = "labels.txt"
    """File in the bundle, one label a line, line 0 for class 0; null: classes are called by their number."""
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
    """Threads of the interpreter. One is best for small models; measure before you raise it."""
    metrics: dict[str, float | int | str] = {}
    """What the model was measured to reach, and on what."""
    golden: Golden | None = None
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        for key, value in (("labels", self.labels), ("golden.dir", self.golden and self.golden.dir)):
            if value is not None and (not value or "/" in value or value.startswith(".")):
                raise ValueError(f"{key}: expected a plain name in the bundle, got {value!r}")
        wanted = TASK_OF[type(self.decoder)]
        if self.task != wanted:
            raise ValueError(
                f"task: decoder {self.decoder.__struct_config__.tag} is for task {wanted}, got {self.task}"
            )


TASK_OF: dict[type, Task] = {
    ClassifyDecoder: "classify",
    SsdDecoder: "detect",
    SsdAnchorsDecoder: "detect",
    YoloDecoder: "detect",
    SegmentDecoder: "segment",
    RegressDecoder: "regress",
}


def load_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        ModelError: it is missing, too large, not YAML, or a key is unknown, missing or wrong; names the key's path.
    """
    try:
        return load_document(path, Manifest)
    except DocumentError as exc:
        raise ModelError(str(exc)) from exc
