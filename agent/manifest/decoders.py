"""What a model's output means: one struct for each decoder, told apart by `type`."""

from typing import Annotated, Literal

from msgspec import Meta

from agent.manifest.section import Positive, Section, Share


class BoxDecoder(Section, frozen=True):
    """Options of every decoder that makes boxes."""

    iou_threshold: Share = 0.5
    """Boxes of one class that overlap more than this are taken for the same object."""
    max_detections: Annotated[int, Meta(ge=1, le=1000)] = 100
    nms: Literal["hard", "weighted"] = "hard"
    """`hard` keeps the best of overlapping boxes; `weighted` averages them by confidence, as MediaPipe does."""


class ClassifyDecoder(Section, frozen=True, tag_field="type", tag="classify"):
    """One confidence for each class."""

    top_k: Annotated[int, Meta(ge=1, le=1000)] = 5
    softmax: bool = False
    """The model gives logits: turn them into confidences."""


class SsdDecoder(BoxDecoder, frozen=True, tag_field="type", tag="ssd"):
    """TensorFlow's detection post-process, NMS included: boxes, classes, confidences, count."""


class SsdAnchorsDecoder(BoxDecoder, frozen=True, tag_field="type", tag="ssd_anchors"):
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


class YoloDecoder(BoxDecoder, frozen=True, kw_only=True, tag_field="type", tag="yolo"):
    """Outputs of Ultralytics' TFLite exports."""

    version: Literal["v5", "v8", "v11"]
    """v5: N x (4 + objectness + classes); v8 and v11: (4 + classes) x N. Boxes are centre and size."""
    normalized: bool = True
    """Box coordinates are shares of the input (Ultralytics' TFLite exports); false: input pixels."""


class SegmentDecoder(Section, frozen=True, tag_field="type", tag="segment"):
    """A map of confidences, H x W x classes, or H x W x 1 for "it is, or it is not"."""

    softmax: bool = False
    """The maps are logits: softmax over classes, or sigmoid for a single map."""
    threshold: Share = 0.5
    """For a single map: from this confidence on a pixel belongs to the class."""
    min_share: Share = 0.001
    """Classes that cover less of the frame are left out."""
    ignore_classes: tuple[int, ...] = ()
    """Such as the background."""


class RegressDecoder(Section, frozen=True, tag_field="type", tag="regress"):
    """Numbers: value * scale + offset, in the order of the model's first output."""

    scale: float = 1.0
    offset: float = 0.0


class AnomalyDecoder(Section, frozen=True, kw_only=True, tag_field="type", tag="anomaly"):
    """How far the model's output is from its input: an autoencoder gives back what is usual, and fails at the rest."""

    threshold: Positive
    """A window with a higher score is an anomaly."""
    error: Literal["mse", "mae"] = "mse"
    """Of the normalised values: square or absolute difference, mean over the channels."""
    average_samples: Annotated[int, Meta(ge=1, le=65536)] | None = None
    """The score is the highest mean error over so many samples in a row. Default: over the whole window."""


class ForecastDecoder(Section, frozen=True, tag_field="type", tag="forecast"):
    """What comes next, in the sensors' own units: output * std + mean of the channels, step by step."""

    channels: tuple[str, ...] = ()
    """Which channels the output has, in this order. Default: all of the input."""
    mean: Annotated[tuple[float, ...], Meta(max_length=256)] = ()
    """One for all of them, or one for each. Default: the input's."""
    std: Annotated[tuple[Positive, ...], Meta(max_length=256)] = ()
    """One for all of them, or one for each. Default: the input's."""


DecoderSpec = (
    ClassifyDecoder
    | SsdDecoder
    | SsdAnchorsDecoder
    | YoloDecoder
    | SegmentDecoder
    | RegressDecoder
    | AnomalyDecoder
    | ForecastDecoder
)
