"""A frame into a model's input tensor, at the least cost that is still exact.

Resize first, then colour, then values, and the last of these straight into the tensor. Measured against a bare
cv2.resize (x86-64): float 1.5 to 1.6 times, integers that take pixels as they are 1.1 to 1.2, values through a table
1.6, another mean or std for each channel 2. The usual order (colour, pad, resize, scale) costs 4 to 25 times as much.
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.inference.steps import Matrix, PlannedStep, Shape, plan_step
from agent.manifest import InputSpec
from agent.values import Image, Tensor, TensorInfo, Transform

# OpenCV's threads gain nothing on pictures this small, and would fight with the interpreter's for the cores.
cv2.setNumThreads(1)

_LIMITS = {"uint8": (0, 255), "int8": (-128, 127)}


@dataclass(frozen=True, slots=True)
class _Plan:
    """All that is the same for frames of one size."""

    frame_shape: Shape
    steps: tuple[PlannedStep, ...]
    source: tuple[slice, slice]
    """The part of the picture that goes in: everything, unless `resize: crop` cuts."""
    target: tuple[slice, slice]
    """The part of the tensor that it fills: everything, unless `resize: letterbox` pads."""
    sample: Callable[[Image, Image], object]
    """Picture into a buffer of the target's size."""
    small: Image
    """After the resize, in the frame's colours."""
    colored: Image
    """In the model's colours."""
    color: int | None
    """OpenCV's code of the conversion."""
    transform: Transform


class Preprocess:
    """Makes inputs for one model. Not thread-safe: buffers are kept from frame to frame."""

    def __init__(self, spec: InputSpec, tensor: TensorInfo) -> None:
        """Prepare for an input tensor 1 x H x W x C of float32, uint8 or int8; gray may leave C out.

        Raises:
            ModelError: the tensor is another than the manifest describes, or its values can't be computed.
        """
        self._spec = spec
        self._channels = 1 if spec.color == "gray" else 3
        _check_shape(spec, tensor, self._channels)
        table = value_table(spec, tensor)
        self._border = table[spec.pad_value]
        self._value = _value_writer(spec, table)
        self._tensor_shape = (spec.height_px, spec.width_px, 3)[: 2 if self._channels == 1 else 3]
        self._plan: _Plan | None = None

    def __call__(self, image: Image, view: Tensor) -> Transform:
        """Write a frame, H x W x 3 BGR or H x W gray, uint8, into the model's input.

        `view` is the input tensor's own memory, the same at each call: the letterbox's border is written only when the
        size of the frame changes. Returns where the input's pixels lie in the frame. With `sampling: corner` that is
        by MediaPipe's convention as well, so that results equal MediaPipe's; they may lie up to half an input pixel
        from where the picture shows them.

        Raises:
            ModelError: the frame is no picture.
        """
        pixels = view.reshape(self._tensor_shape)
        plan = self._plan
        if plan is None or plan.frame_shape != image.shape:
            plan = self._plan = _make_plan(self._spec, image)
            pixels[...] = self._border
        for step in plan.steps:
            image = step.apply(image)
        target = pixels[plan.target]
        # Each stage writes into its buffer, the last one into the tensor.
        value, color = self._value, plan.color
        small = target if value is None and color is None else plan.small
        plan.sample(image[plan.source], small)
        if color is not None:
            colored = target if value is None else plan.colored
            cv2.cvtColor(small, color, dst=colored)
            small = colored
        if value is not None:
            value(small, target)
        return plan.transform


def value_table(spec: InputSpec, tensor: TensorInfo) -> NDArray[np.generic]:
    """What each pixel value becomes in the tensor: 256 x channels, in the tensor's dtype.

    Quantised: `clip(round(real / scale) + zero_point)`, ties to even; a tensor without a scale takes the real value
    itself.

    Raises:
        ModelError: another dtype than float32, uint8 and int8, or values that float32 does not hold.
    """
    channels = 1 if spec.color == "gray" else 3
    mean, std = (np.broadcast_to(np.array(values, np.float64), channels) for values in (spec.mean, spec.std))
    scale = tensor.scale or 1.0
    with np.errstate(all="ignore"):
        real = (np.arange(256.0)[:, None] - mean) / std
        quantised = np.rint(real / scale) + tensor.zero_point
        as_float = real.astype(np.float32)
    if tensor.dtype == "float32":
        table, usable = as_float, as_float
    elif tensor.dtype in _LIMITS:
        usable = quantised
        table = np.clip(np.nan_to_num(quantised), *_LIMITS[tensor.dtype]).astype(tensor.dtype)
    else:
        raise ModelError(f"input {tensor.name}: expected float32, uint8 or int8, got {tensor.dtype}")
    if not np.isfinite(usable).all():
        raise ModelError(f"input {tensor.name}: mean {spec.mean} and std {spec.std} make values that are not numbers")
    return table


def _check_shape(spec: InputSpec, tensor: TensorInfo, channels: int) -> None:
    wanted = (1, spec.height_px, spec.width_px, channels)
    if tensor.shape == wanted or (channels == 1 and tensor.shape == wanted[:3]):
        return
    hint = ""
    if tensor.shape == (1, channels, spec.height_px, spec.width_px):
        hint = "; channels come first, as in PyTorch: convert the model so that they come last"
    raise ModelError(
        f"input {tensor.name}: the model takes {_times(tensor.shape)}, the manifest says {_times(wanted)} "
        f"(1 x height_px x width_px x channels of color {spec.color}){hint}"
    )


def _times(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "a single number"


def _value_writer(spec: InputSpec, table: NDArray[np.generic]) -> Callable[[Image, Tensor], object] | None:
    """The cheapest way from pixel values to the tensor's; None: they are the same."""
    levels = np.arange(256)[:, None]
    if table.dtype == np.uint8 and (table == levels).all():
        return None
    if table.dtype == np.int8 and (table == levels - 128).all():
        return lambda pixels, target: np.bitwise_xor(pixels, 0x80, out=target.view(np.uint8))
    uniform = bool((table == table[:, :1]).all())
    if table.dtype == np.float32 and uniform:
        factor, offset = 1.0 / spec.std[0], -spec.mean[0] / spec.std[0]
        return lambda pixels, target: cv2.addWeighted(pixels, factor, pixels, 0.0, offset, dst=target, dtype=cv2.CV_32F)
    lut = np.ascontiguousarray(table[:, 0] if uniform else table[None])
    return lambda pixels, target: cv2.LUT(pixels, lut, dst=target)


def _make_plan(spec: InputSpec, image: Image) -> _Plan:
    frame_shape = image.shape
    if (
        image.dtype != np.uint8
        or 0 in frame_shape
        or len(frame_shape) not in (2, 3)
        or frame_shape[2:] not in ((), (3,))
    ):
        raise ModelError(f"expected a frame of H x W or H x W x 3 uint8, got {_times(frame_shape)} {image.dtype}")
    steps: list[PlannedStep] = []
    back: Matrix = np.eye(3)
    shape = frame_shape
    for step in spec.steps:
        planned = plan_step(step, shape)
        steps.append(planned)
        back, shape = back @ planned.back, planned.shape
    source, target = _regions(spec, width=shape[1], height=shape[0])
    (left, top, source_w, source_h), (x, y, target_w, target_h) = source, target
    zoom_x, zoom_y = source_w / target_w, source_h / target_h
    back = back @ np.array([[zoom_x, 0, left - x * zoom_x], [0, zoom_y, top - y * zoom_y], [0, 0, 1]])
    matrix = np.ascontiguousarray(back[:2])
    matrix.setflags(write=False)
    return _Plan(
        frame_shape=frame_shape,
        steps=tuple(steps),
        source=(slice(top, top + source_h), slice(left, left + source_w)),
        target=(slice(y, y + target_h), slice(x, x + target_w)),
        sample=_sampler(spec, (source_w, source_h), (target_w, target_h)),
        small=np.empty((target_h, target_w, *shape[2:]), np.uint8),
        colored=np.empty((target_h, target_w, 3)[: 2 if spec.color == "gray" else 3], np.uint8),
        color=_color_code(spec, is_gray=len(shape) == 2),
        transform=Transform(matrix, (spec.width_px, spec.height_px), (frame_shape[1], frame_shape[0])),
    )


_Region = tuple[int, int, int, int]
"""Left, top, width, height."""


def _regions(spec: InputSpec, *, width: int, height: int) -> tuple[_Region, _Region]:
    """Which part of the picture goes into which part of the tensor."""
    input_w, input_h = spec.width_px, spec.height_px
    source, target = (0, 0, width, height), (0, 0, input_w, input_h)
    if spec.resize == "letterbox":
        zoom = min(input_w / width, input_h / height)
        fit_w, fit_h = max(1, round(width * zoom)), max(1, round(height * zoom))
        target = ((input_w - fit_w) // 2, (input_h - fit_h) // 2, fit_w, fit_h)
    elif spec.resize == "crop":
        zoom = max(input_w / width, input_h / height)
        cut_w, cut_h = max(1, round(input_w / zoom)), max(1, round(input_h / zoom))
        source = ((width - cut_w) // 2, (height - cut_h) // 2, cut_w, cut_h)
    return source, target


def _sampler(
    spec: InputSpec, source_wh: tuple[int, int], target_wh: tuple[int, int]
) -> Callable[[Image, Image], object]:
    if spec.sampling == "half_pixel":
        return lambda image, target: cv2.resize(image, target_wh, dst=target)
    # MediaPipe maps the picture's edges without half-pixel centres (image_to_tensor_converter_opencv.cc); cv2.resize
    # can't, and its detections near the threshold differ on every tenth frame.
    affine = np.array([[target_wh[0] / source_wh[0], 0, 0], [0, target_wh[1] / source_wh[1], 0]])
    return lambda image, target: cv2.warpAffine(
        image, affine, target_wh, dst=target, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )


def _color_code(spec: InputSpec, *, is_gray: bool) -> int | None:
    if is_gray:
        return None if spec.color == "gray" else cv2.COLOR_GRAY2BGR
    return {"rgb": cv2.COLOR_BGR2RGB, "bgr": None, "gray": cv2.COLOR_BGR2GRAY}[spec.color]
