"""What the tests of the decoders share: tensors, transforms, models that run, and comparing."""

import cv2
import numpy as np

from agent.inference.interpreter import Interpreter
from agent.manifest import Manifest, load_manifest
from agent.values import Detection, TensorInfo, Transform
from tests.sim.bundles import home_of, model_path, picture_path
from tests.unit.decode.reference import Box


def info_of(array: np.ndarray, name: str = "out", scale: float = 0.0, zero_point: int = 0) -> TensorInfo:
    return TensorInfo(name, array.shape, array.dtype.name, scale, zero_point)


def same_size(input_wh: tuple[int, int]) -> Transform:
    """The input is the frame."""
    return Transform(np.eye(2, 3), input_wh, input_wh)


def letterbox(frame_wh: tuple[int, int], input_wh: tuple[int, int]) -> Transform:
    """The frame in the middle of the input, with borders above and below or left and right."""
    scale = min(input_wh[0] / frame_wh[0], input_wh[1] / frame_wh[1])
    shown = (round(frame_wh[0] * scale), round(frame_wh[1] * scale))
    left, top = (input_wh[0] - shown[0]) // 2, (input_wh[1] - shown[1]) // 2
    across, down = frame_wh[0] / shown[0], frame_wh[1] / shown[1]
    return Transform(np.array([[across, 0, -left * across], [0, down, -top * down]]), input_wh, frame_wh)


def turned(transform: Transform, quarters: int = 0, *, mirrored: bool = False) -> Transform:
    """The same view of a frame that was turned clockwise by quarters, then mirrored, before it was made the input."""
    matrix, (width, height) = transform.matrix, transform.frame_wh
    if mirrored:
        matrix = np.array([[-1, 0, width], [0, 1, 0]]) @ np.vstack((matrix, [0, 0, 1]))
    for _ in range(quarters):  # undo one: (x, y) of the turned frame was at (y, width - x) before
        matrix = np.array([[0, 1, 0], [-1, 0, width]]) @ np.vstack((matrix, [0, 0, 1]))
        width, height = height, width
    return Transform(matrix.astype(np.float64), transform.input_wh, (width, height))


class RunningModel:
    """A real model with its manifest, on whichever runtime is there, without any of the agent's own preprocessing."""

    def __init__(self, name: str, model: bytes | None = None) -> None:
        home = home_of(name)
        version = home / (home / "current").read_text(encoding="utf-8").strip()
        self.manifest: Manifest = load_manifest(version / "manifest.yaml")
        self.labels = (version / "labels.txt").read_text(encoding="utf-8").splitlines()
        self.input_wh = (self.manifest.input.width_px, self.manifest.input.height_px)
        self._interpreter = Interpreter(model or model_path(name).read_bytes(), threads=1)
        self.infos = self._interpreter.outputs

    def run(self, picture: str) -> tuple[list[np.ndarray], Transform]:
        """Copies of the outputs for a photo, letterboxed in plain steps."""
        image = cv2.imread(str(picture_path(picture)))
        transform = letterbox((image.shape[1], image.shape[0]), self.input_wh)
        to_input = cv2.invertAffineTransform(transform.matrix)
        shown = cv2.warpAffine(image, to_input, self.input_wh, flags=cv2.INTER_LINEAR)
        mean, std = self.manifest.input.mean[0], self.manifest.input.std[0]
        self._interpreter.input_view()[...] = (shown[..., ::-1].astype(np.float32) - mean) / std
        self._interpreter.invoke()
        return [view.copy() for view in self._interpreter.output_views()], transform


def quantized(real: np.ndarray, dtype: str, name: str = "out") -> tuple[np.ndarray, TensorInfo]:
    """A float tensor as a quantised model would give it, over its whole range, and what the model says of it."""
    span = np.iinfo(dtype)
    low, high = min(float(real.min()), 0.0), max(float(real.max()), 0.0)
    scale = (high - low) / (span.max - span.min) or 1.0
    zero_point = round(span.min - low / scale)
    raw = np.clip(np.rint(real / scale) + zero_point, span.min, span.max).astype(dtype)
    return raw, TensorInfo(name, raw.shape, dtype, float(np.float32(scale)), zero_point)


def assert_same(found: list[Detection], expected: list[Box], px: float = 0.011) -> None:
    """Equal but for rounding. Boxes thinner than the rounding may or may not be there."""
    seen = [d for d in found if min(d.xyxy[2] - d.xyxy[0], d.xyxy[3] - d.xyxy[1]) > 2 * px]
    wanted = [b for b in expected if min(b.xyxy[2] - b.xyxy[0], b.xyxy[3] - b.xyxy[1]) > 2 * px]
    assert [d.class_id for d in seen] == [b.class_id for b in wanted]
    for detection, box in zip(seen, wanted, strict=True):
        assert abs(detection.confidence - box.confidence) <= 0.51e-4 + 1e-6 * abs(box.confidence)
        np.testing.assert_allclose(detection.xyxy, box.xyxy, rtol=0, atol=px)
        if box.keypoints:
            np.testing.assert_allclose(detection.keypoints, box.keypoints, rtol=1e-6, atol=px)
