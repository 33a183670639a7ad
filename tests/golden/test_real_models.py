"""`replay` of real pictures through real models, against an independent path: naive preprocessing in float64, the bare
interpreter, naive decoding. And the answers are what a person sees in the pictures."""

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agent.cli.replay import replay
from agent.config import Config, Models, Pipeline, SyntheticSource
from agent.inference.interpreter import Interpreter
from agent.inference.locate import find_bundle
from agent.manifest import Manifest, SsdAnchorsDecoder, load_manifest
from agent.values import Transform
from tests.sim.bundles import make_bundle, needs_litert, picture_path
from tests.unit.decode import reference
from tests.unit.inference import naive

pytestmark = [pytest.mark.runtime, pytest.mark.timeout(300)]

PICTURES = ["astronaut.png", "chelsea.png", "coffee.png", "camera.png"]
MIN_CONFIDENCE = 0.3


def replayed(models: Path, name: str, picture: Path, min_confidence: float) -> dict[str, Any]:
    """The one result of the one picture."""
    pipeline = Pipeline(name="p", source=SyntheticSource(), model=name, min_confidence=min_confidence)
    config = Config(models=Models(dir=str(models)), pipelines=(pipeline,))
    file = io.BytesIO()
    assert replay(config, pipeline, str(picture), file) == (1, 0)
    return json.loads(file.getvalue())


class NaivePath:
    """One model, slowly."""

    def __init__(self, folder: Path) -> None:
        self.manifest: Manifest = load_manifest(folder / "manifest.yaml")
        self.labels = (folder / "labels.txt").read_text().splitlines()
        self.interpreter = Interpreter((folder / "model.tflite").read_bytes(), threads=1)

    def outputs(self, image: np.ndarray) -> tuple[list[np.ndarray], Transform]:
        spec, info = self.manifest.input, self.interpreter.inputs[0]
        side_w, side_h = spec.width_px, spec.height_px
        height, width = image.shape[:2]
        scale_x, scale_y = side_w / width, side_h / height
        if spec.resize == "letterbox":
            scale_x = scale_y = min(scale_x, scale_y)
        elif spec.resize == "crop":
            scale_x = scale_y = max(scale_x, scale_y)
        if spec.resize == "crop":
            keep_w, keep_h = round(side_w / scale_x), round(side_h / scale_y)
            x, y = (width - keep_w) // 2, (height - keep_h) // 2
            image = image[y : y + keep_h, x : x + keep_w]
            small_w, small_h = side_w, side_h
            offset = (-x, -y)
        else:
            small_w, small_h = round(width * scale_x), round(height * scale_y)
            offset = (0, 0)
        small = naive.color(naive.bilinear(image, small_w, small_h, spec.sampling), spec.color)
        canvas = np.full((side_h, side_w, *small.shape[2:]), float(spec.pad_value))
        left, top = (side_w - small_w) // 2, (side_h - small_h) // 2
        canvas[top : top + small_h, left : left + small_w] = small
        real = naive.normalize(canvas, spec.mean, spec.std)
        tensor = real if info.scale == 0 else naive.quantize(real, info.dtype, info.scale, info.zero_point)
        self.interpreter.input_view()[...] = tensor.reshape(info.shape)
        self.interpreter.invoke()
        sx, sy = image.shape[1] / small_w, image.shape[0] / small_h
        matrix = np.array([[sx, 0, -left * sx - offset[0]], [0, sy, -top * sy - offset[1]]])
        found = [view.copy() for view in self.interpreter.output_views()]
        return found, Transform(matrix, (side_w, side_h), (width, height))

    def detections(self, image: np.ndarray) -> list[reference.Box]:
        spec = self.manifest.decoder
        assert isinstance(spec, SsdAnchorsDecoder)
        outputs, transform = self.outputs(image)
        infos = self.interpreter.outputs
        by_width = sorted(range(2), key=lambda i: infos[i].shape[-1] in (4, 16), reverse=True)
        boxes, scores = ((infos[i], outputs[i]) for i in by_width)
        input_wh = (self.manifest.input.width_px, self.manifest.input.height_px)
        candidates = reference.ssd_anchors_boxes(spec, input_wh, boxes, scores)
        return reference.detections(candidates, spec, transform, MIN_CONFIDENCE)


@pytest.mark.parametrize("name", ["face", "face_full", "ssd_oidv4", "ssd_oidv4_int8"])
@pytest.mark.parametrize("picture", PICTURES)
def test_boxes_are_those_of_the_naive_path(tmp_path: Path, name: str, picture: str) -> None:
    """The same objects, with boxes that overlap by far more than half."""
    models, path = make_bundle(name, tmp_path), picture_path(picture)
    slow = NaivePath(find_bundle(models, name))
    expected = slow.detections(cv2.imread(str(path)))
    found = replayed(models, name, path, MIN_CONFIDENCE)["detections"]
    sure = [box for box in expected if box.confidence > MIN_CONFIDENCE + 0.03]
    for box in sure:
        best = max(found, key=lambda d: (d["class_id"] == box.class_id) * reference.overlap(d["xyxy"], box.xyxy))
        assert best["class_id"] == box.class_id
        assert reference.overlap(best["xyxy"], box.xyxy) > (0.8 if name.endswith("int8") else 0.9)
        assert best["confidence"] == pytest.approx(box.confidence, abs=0.03)
    assert len(sure) <= len(found) <= len(expected) + 1


SEEN = [
    ("face", "astronaut.png", "face", 0.9),
    ("face_full", "astronaut.png", "face", 0.9),
    ("face", "camera.png", "face", 0.5),
    ("ssd_oidv4", "astronaut.png", "Person", 0.5),
    ("ssd_oidv4", "chelsea.png", "Cat", 0.7),
    ("ssd_oidv4", "coffee.png", "Coffee cup", 0.4),
    ("ssd_oidv4_int8", "astronaut.png", "Person", 0.5),
    ("ssd_oidv4_int8", "chelsea.png", "Cat", 0.7),
    ("ssd_oidv4_int8", "coffee.png", "Coffee cup", 0.4),
]


@pytest.mark.parametrize(("name", "picture", "label", "confidence"), SEEN)
def test_the_best_detection_is_what_a_person_sees(
    tmp_path: Path, name: str, picture: str, label: str, confidence: float
) -> None:
    result = replayed(make_bundle(name, tmp_path), name, picture_path(picture), 0.3)
    best = result["detections"][0]
    assert label == best["label"]
    assert best["confidence"] > confidence


VARIANTS = ["efflite0_fp32", "efflite0_fp16", "efflite0_dyn", "efflite0_int8", "efflite0_uint8"]
IMAGENET = {"chelsea.png": "cat", "coffee.png": "espresso", "camera.png": "tripod"}


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("picture", IMAGENET)
def test_the_class_is_the_bare_interpreters(tmp_path: Path, name: str, picture: str) -> None:
    """Float and quantised, with reference preprocessing; and the class is what is in the picture."""
    models, path = make_bundle(name, tmp_path), picture_path(picture)
    slow = NaivePath(find_bundle(models, name))
    (scores,), _ = slow.outputs(cv2.imread(str(path)))
    best = replayed(models, name, path, 0.01)["classes"][0]
    assert int(np.argmax(scores)) == best["class_id"]
    assert slow.labels[best["class_id"]] == best["label"]
    expected = slow.interpreter.outputs[0].dequantize(scores).max()
    assert best["confidence"] == pytest.approx(float(expected), abs=0.03)
    assert IMAGENET[picture].lower() in best["label"].lower()


@pytest.mark.parametrize("name", ["digits", "digits_float"])
def test_digits_are_read(tmp_path: Path, name: str) -> None:
    models = make_bundle(name, tmp_path)
    pictures = sorted((Path(__file__).parent / "digits").glob("*.png"))
    pipeline = Pipeline(name="p", source=SyntheticSource(), model=name, min_confidence=0.0)
    config = Config(models=Models(dir=str(models)), pipelines=(pipeline,))
    file = io.BytesIO()
    replay(config, pipeline, str(pictures[0].parent), file)
    read = [json.loads(line)["classes"][0]["label"] for line in file.getvalue().splitlines()]
    written = [path.name.split("_")[0] for path in pictures]
    right = sum(a == b for a, b in zip(read, written, strict=True))
    assert right >= 0.9 * len(written)


def test_a_person_is_cut_out(tmp_path: Path) -> None:
    """The share of the picture is that of the pixels over the threshold; the astronaut fills much of hers."""
    needs_litert("tflite-runtime lacks MediaPipe's operator Convolution2DTransposeBias")
    models, path = make_bundle("selfie", tmp_path), picture_path("astronaut.png")
    (confidences,), _ = NaivePath(find_bundle(models, "selfie")).outputs(cv2.imread(str(path)))
    (segment,) = replayed(models, "selfie", path, 0.0)["segments"]
    assert segment["share"] == pytest.approx(float((confidences >= 0.5).mean()), abs=0.01)
    assert 0.3 < segment["share"] < 0.9
    left, top, right, bottom = segment["xyxy"]
    assert (right - left) * (bottom - top) > 0.3 * 512 * 512
