"""Steps of the manifest that come before the resize: what they do to a picture, and where its points go.

A step is planned once per frame size: buffers and tables are made then, and a frame costs one OpenCV call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, assert_never

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.manifest import CropStep, DenoiseStep, EqualizeStep, FlipStep, GammaStep, RotateStep, Step
from agent.values import Image

Matrix: TypeAlias = NDArray[np.float64]
"""3 x 3; takes points (x, y, 1) after a step to where they were before it. Pixels are continuous."""

Shape: TypeAlias = tuple[int, ...]

_UNCHANGED = np.eye(3)
_TURNS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
_NLM_SEARCH_PX = 21
"""Side of the window in which non-local means looks for similar patches; OpenCV's default."""


@dataclass(frozen=True, slots=True)
class PlannedStep:
    """One step for frames of one size."""

    apply: Callable[[Image], Any]  # an Image; cv2's stubs say less
    """The picture after the step: a view of the one before, or a buffer that the next call writes again."""
    back: Matrix
    shape: Shape
    """Shape of the picture after the step."""


def plan_step(step: Step, shape: Shape) -> PlannedStep:
    """Prepare a step for pictures of this shape, H x W or H x W x 3."""
    match step:
        case CropStep():
            return _plan_crop(step, shape)
        case RotateStep():
            return _plan_rotate(step, shape)
        case FlipStep():
            return _plan_flip(step, shape)
        case DenoiseStep():
            return PlannedStep(_denoiser(step, shape), _UNCHANGED, shape)
        case EqualizeStep():
            return PlannedStep(_equalizer(step, shape), _UNCHANGED, shape)
        case GammaStep():
            return PlannedStep(_gamma(step, shape), _UNCHANGED, shape)
        case _:
            assert_never(step)


def _plan_crop(step: CropStep, shape: Shape) -> PlannedStep:
    """Edges at the nearest pixel, and at least one pixel is kept."""
    height, width = shape[:2]
    left, top = min(round(step.xyxy[0] * width), width - 1), min(round(step.xyxy[1] * height), height - 1)
    right, bottom = max(round(step.xyxy[2] * width), left + 1), max(round(step.xyxy[3] * height), top + 1)
    back = np.array([[1.0, 0, left], [0, 1, top], [0, 0, 1]])
    return PlannedStep(lambda image: image[top:bottom, left:right], back, (bottom - top, right - left, *shape[2:]))


def _plan_rotate(step: RotateStep, shape: Shape) -> PlannedStep:
    height, width = shape[:2]
    match step.degrees:
        case 90:  # the top left corner goes to the top right
            turned, back = (width, height), [[0.0, 1, 0], [-1, 0, height], [0, 0, 1]]
        case 180:
            turned, back = (height, width), [[-1.0, 0, width], [0, -1, height], [0, 0, 1]]
        case 270:
            turned, back = (width, height), [[0.0, -1, width], [1, 0, 0], [0, 0, 1]]
    after = (*turned, *shape[2:])
    buffer, turn = np.empty(after, np.uint8), _TURNS[step.degrees]
    return PlannedStep(lambda image: cv2.rotate(image, turn, dst=buffer), np.array(back), after)


def _plan_flip(step: FlipStep, shape: Shape) -> PlannedStep:
    height, width = shape[:2]
    if step.axis == "horizontal":
        code, back = 1, [[-1.0, 0, width], [0, 1, 0], [0, 0, 1]]
    else:
        code, back = 0, [[1.0, 0, 0], [0, -1, height], [0, 0, 1]]
    buffer = np.empty(shape, np.uint8)
    return PlannedStep(lambda image: cv2.flip(image, code, dst=buffer), np.array(back), shape)


def _denoiser(step: DenoiseStep, shape: Shape) -> Callable[[Image], Any]:
    buffer = np.empty(shape, np.uint8)
    if step.method == "median":
        return lambda image: cv2.medianBlur(image, step.size_px, dst=buffer)
    if len(shape) == 2:
        return lambda image: cv2.fastNlMeansDenoising(image, buffer, step.strength, step.size_px, _NLM_SEARCH_PX)
    return lambda image: cv2.fastNlMeansDenoisingColored(
        image, buffer, step.strength, step.strength, step.size_px, _NLM_SEARCH_PX
    )


def _equalizer(step: EqualizeStep, shape: Shape) -> Callable[[Image], Any]:
    """Contrast-limited adaptive histogram equalization of the luma (Y of YCrCb); colours keep their hue."""
    clahe = cv2.createCLAHE(step.clip_limit, (step.tiles, step.tiles))
    luma = np.empty(shape[:2], np.uint8)
    if len(shape) == 2:
        return lambda image: clahe.apply(image, dst=luma)
    ycrcb, buffer = np.empty(shape, np.uint8), np.empty(shape, np.uint8)

    def equalize(image: Image) -> Any:
        cv2.cvtColor(image, cv2.COLOR_BGR2YCrCb, dst=ycrcb)
        cv2.insertChannel(clahe.apply(cv2.extractChannel(ycrcb, 0, dst=luma), dst=luma), ycrcb, 0)
        return cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2BGR, dst=buffer)

    return equalize


def _gamma(step: GammaStep, shape: Shape) -> Callable[[Image], Any]:
    table = np.rint(255.0 * (np.arange(256) / 255.0) ** (1.0 / step.gamma)).astype(np.uint8)
    buffer = np.empty(shape, np.uint8)
    return lambda image: cv2.LUT(image, table, dst=buffer)
