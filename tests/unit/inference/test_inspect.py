"""`inspect`: what it says of models of all families, and that the manifest it suggests is accepted."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.decode import make_decoder
from agent.errors import ModelError
from agent.inference.inspect import ModelReport, format_report, inspect_model, manifest_yaml
from agent.inference.interpreter import Interpreter
from agent.inference.preprocess import Preprocess
from agent.manifest import Manifest, load_manifest
from tests.sim.bundles import model_path
from tests.unit.inference.test_inspect_metadata import full_metadata, with_files
from tests.unit.inference.tiny_models import FbTable, TensorSpec, make_model

pytestmark = pytest.mark.runtime


def zeros(*shape: int, name: str = "out", value: float = 0.0) -> TensorSpec:
    return TensorSpec(name, shape, data=np.full(shape, value, np.float32))


def image(width: int, height: int | None = None, channels: int = 3) -> TensorSpec:
    return TensorSpec("image", (1, height or width, width, channels))


def inspect_bytes(folder: Path, model: bytes, name: str = "thing.tflite") -> ModelReport:
    path = folder / name
    path.write_bytes(model)
    return inspect_model(path)


def accepted(report: ModelReport, folder: Path, labels: tuple[str, ...] = ()) -> Manifest:
    """The suggestion as the agent reads it; preprocess and decoder have to take the model with it."""
    path = folder / "manifest.yaml"
    path.write_text(manifest_yaml(report), encoding="utf-8")
    manifest = load_manifest(path)
    Preprocess(manifest.input, report.inputs[0])
    make_decoder(manifest.decoder, labels, (manifest.input.width_px, manifest.input.height_px), report.outputs)
    return manifest


FAMILIES = [
    ("blazeface short range", image(128), [zeros(1, 896, 16), zeros(1, 896, 1)],
     {"type": "ssd_anchors", "strides": [8, 16, 16, 16], "num_keypoints": 6, "nms": "weighted", "x_scale": 128.0}),
    ("blazeface back camera", image(256), [zeros(1, 896, 16), zeros(1, 896, 1)],
     {"type": "ssd_anchors", "strides": [16, 32, 32, 32], "num_keypoints": 6, "x_scale": 256.0}),
    ("blazeface full range", image(192), [zeros(1, 2304, 1), zeros(1, 2304, 16)],
     {"type": "ssd_anchors", "strides": [4], "interpolated_scale_aspect_ratio": 0.0}),
    ("palm", image(192), [zeros(1, 2016, 18), zeros(1, 2016, 1)], {"type": "ssd_anchors", "num_keypoints": 7}),
    ("pose", image(224), [zeros(1, 2254, 12), zeros(1, 2254, 1)], {"type": "ssd_anchors", "num_keypoints": 4}),
    ("tensorflow ssd", image(300), [zeros(1, 1917, 4), zeros(1, 1917, 24)],
     {"type": "ssd_anchors", "y_scale": 10.0, "apply_exponential_on_box_size": True, "ignore_classes": [0]}),
    ("post-processed ssd", image(320), [zeros(1, 10, 4), zeros(1, 10), zeros(1, 10), zeros(1)], {"type": "ssd"}),
    ("yolo v8", image(640), [zeros(1, 84, 8400)], {"type": "yolo", "version": "v8"}),
    ("yolo v8, not square", image(320, 192), [zeros(1, 6, 1260)], {"type": "yolo", "version": "v8"}),
    ("yolo v5", image(640), [zeros(1, 25200, 85)], {"type": "yolo", "version": "v5"}),
    ("classes", image(224), [zeros(1, 1000)], {"type": "classify", "top_k": 5}),
    ("classes, four dimensions", image(224), [zeros(1, 1, 1, 1001)], {"type": "classify"}),
    ("classes that add to 1", image(28, channels=1), [zeros(1, 4, value=0.25)], {"type": "classify", "top_k": 4}),
    ("classes by name", image(28), [zeros(1, 3, name="Softmax")], {"type": "classify"}),
    ("map", image(64), [zeros(1, 64, 64, 1)], {"type": "segment", "softmax": False}),
    ("logits for classes", image(64), [zeros(1, 32, 32, 21, value=-4)], {"type": "segment", "softmax": True}),
    ("one number", image(64), [zeros(1, 1)], {"type": "regress"}),
    ("a few numbers", image(64), [zeros(1, 4)], {"type": "regress"}),
    ("two rows of numbers", image(64), [zeros(1, 213), zeros(1, 15)], {"type": "regress"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "outputs", "decoder"), [row[1:] for row in FAMILIES], ids=[row[0] for row in FAMILIES]
)
def test_each_family_is_recognised_and_its_manifest_accepted(
    tmp_path: Path, given: TensorSpec, outputs: list[TensorSpec], decoder: dict[str, Any]
) -> None:
    report = inspect_bytes(tmp_path, make_model(given, outputs))
    suggested = report.suggestion.manifest["decoder"]
    assert {key: suggested.get(key) for key in decoder} == decoder
    assert report.suggestion.reasons["decoder.type"]
    accepted(report, tmp_path)


@pytest.mark.parametrize(("value", "softmax"), [(0.1, False), (3.0, True), (-1.0, True)])
def test_a_trial_run_shows_whether_softmax_is_missing(tmp_path: Path, value: float, softmax: bool) -> None:
    report = inspect_bytes(tmp_path, make_model(image(32), [zeros(1, 10, value=value)]))
    assert report.suggestion.manifest["decoder"]["softmax"] is softmax
    assert report.tried[0].adds_to_one is (value == 0.1)


class TestInput:
    @pytest.mark.parametrize(
        ("dtype", "scale", "zero_point", "mean", "std"),
        [
            ("uint8", 1 / 255, 0, 0.0, 255.0),
            ("int8", 1 / 255, -128, 0.0, 255.0),
            ("int8", 1 / 128, 0, 128.0, 128.0),
            ("uint8", 0.0078125, 127, 127.0, 128.0),
            ("uint8", 0.0, 0, 0.0, 1.0),
        ],
    )
    def test_a_quantised_input_gets_pixels_as_they_are(
        self, tmp_path: Path, dtype: str, scale: float, zero_point: int, mean: float, std: float
    ) -> None:
        given = TensorSpec("image", (1, 16, 16, 3), dtype, scale, zero_point)
        report = inspect_bytes(tmp_path, make_model(given, [zeros(1, 20)]))
        suggested = report.suggestion.manifest["input"]
        assert (suggested["mean"], suggested["std"]) == ([mean], [std])
        spec, frame = accepted(report, tmp_path).input, np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
        view = np.zeros((1, 16, 16, 3), dtype)
        Preprocess(spec, report.inputs[0])(frame, view)
        np.testing.assert_array_equal(view[0].astype(int) + (128 if dtype == "int8" else 0), frame[..., ::-1])

    def test_normalization_comes_from_the_metadata(self, tmp_path: Path) -> None:
        metadata = full_metadata()
        options = metadata.slots[3][0].slots[2][0].slots[4][1].slots[1].slots
        options[0], options[1] = np.float32([1, 2, 3]), np.float32([4, 5, 6])
        report = inspect_bytes(tmp_path, make_model(image(32), [zeros(1, 20)], metadata))
        suggested = report.suggestion.manifest["input"]
        assert (suggested["mean"], suggested["std"]) == ([1, 2, 3], [4, 5, 6])
        assert report.suggestion.reasons["input.mean"] == "from the metadata"
        assert report.suggestion.reasons["input.color"] == "from the metadata"

    @pytest.mark.parametrize("std", [[0.0], [np.nan], [1.0, 2.0], []])
    def test_normalization_that_makes_no_sense_is_left_out(self, tmp_path: Path, std: list[float]) -> None:
        metadata = full_metadata()
        metadata.slots[3][0].slots[2][0].slots[4][1].slots[1].slots[1] = np.array(std, np.float32)
        report = inspect_bytes(tmp_path, make_model(image(32), [zeros(1, 20)], metadata))
        assert report.suggestion.manifest["input"]["std"] == [127.5]
        assert report.suggestion.reasons["input.mean"].startswith("guess")
        accepted(report, tmp_path)

    @pytest.mark.parametrize("dtype", ["float16", "int32"])
    def test_pictures_can_not_be_made_every_type(self, tmp_path: Path, dtype: str) -> None:
        report = inspect_bytes(tmp_path, make_model(TensorSpec("x", (1, 8, 8, 3), dtype), [zeros(1, 20)]))
        assert report.suggestion.problem == f"the input takes {dtype}; pictures can be made float32, uint8 and int8"
        assert manifest_yaml(report) == ""

    @pytest.mark.parametrize(
        ("shape", "why"),
        [
            ((1, 3, 32, 32), "channels first"),
            ((1, 40), "no picture"),
            ((1, 32, 32, 4), "no picture"),
            ((1, 8, 5000, 3), "Expected `int` <= 4096"),
        ],
    )
    def test_an_input_that_can_not_be_fed_gets_no_manifest_but_a_reason(
        self, tmp_path: Path, shape: tuple[int, ...], why: str
    ) -> None:
        report = inspect_bytes(tmp_path, make_model(TensorSpec("x", shape), [zeros(1, 20)]))
        assert why in report.suggestion.problem
        assert manifest_yaml(report) == ""
        assert f"no manifest fits: {report.suggestion.problem}" in format_report(report)


class TestLabels:
    def test_labels_in_the_file_are_shown_and_named(self, tmp_path: Path) -> None:
        model = with_files(make_model(image(32), [zeros(1, 3)]), {"labels.txt": b"cat\ndog\nfox\n"})
        report = inspect_bytes(tmp_path, model)
        manifest = accepted(report, tmp_path, ("cat", "dog", "fox"))
        assert (manifest.task, manifest.labels) == ("classify", "labels.txt")
        assert "    2: fox" in format_report(report)
        assert "there are as many labels" in report.suggestion.reasons["decoder.type"]

    def test_labels_that_do_not_fit_are_not_used(self, tmp_path: Path) -> None:
        model = with_files(make_model(image(32), [zeros(1, 30)]), {"labels.txt": b"cat\ndog\nfox\n"})
        report = inspect_bytes(tmp_path, model)
        assert accepted(report, tmp_path).task == "classify"
        assert report.suggestion.manifest["labels"] is None
        assert report.suggestion.reasons["labels"].startswith("the file has 3 labels, but")


class TestText:
    def test_the_report_holds_size_digest_runtime_and_tables(self, tmp_path: Path) -> None:
        given = TensorSpec("image", (1, 16, 16, 3), "uint8", 0.5, 3)
        model = make_model(given, [zeros(1, 20, name="scores", value=2.5)], full_metadata())
        text = format_report(inspect_bytes(tmp_path, model))
        assert f"{len(model)} bytes, sha256 {hashlib.sha256(model).hexdigest()}" in text
        rows = [line.split() for line in text.splitlines()]
        assert ["image", "1x16x16x3", "uint8", "0.5", "3"] in rows
        assert ["scores", "1x20", "float32", "-", "-", "2.5", "..", "2.5"] in rows
        assert "  name: Faces" in text
        assert "  input image: the picture; rgb; mean [127.5], std [127.5]" in text

    def test_text_from_the_file_can_not_drive_the_terminal_or_break_the_yaml(self, tmp_path: Path) -> None:
        evil = "x\x1b]0;owned\x07\nlabels: evil.txt\r\u2028#"
        metadata = FbTable({0: evil, 1: evil, 2: evil, 3: [FbTable({2: [FbTable({0: evil, 1: evil})]})]})
        given, out = TensorSpec(evil, (1, 16, 16, 3)), zeros(1, 20, name=evil)
        model = with_files(make_model(given, [out], metadata), {f"{evil}labels.txt": f"{evil}\n".encode() * 20})
        report = inspect_bytes(tmp_path, model)
        assert accepted(report, tmp_path).task == "classify"
        assert not [char for char in format_report(report) if not char.isprintable() and char != "\n"]
        assert "\nlabels: evil" not in format_report(report)

    @pytest.mark.parametrize(
        ("file", "name"),
        [("Face_V2 (1).tflite", "face-v2-1"), ("été.tflite", "t"), ("....tflite", "model"), ("on.tflite", "on")],
    )
    def test_the_name_comes_from_the_file(self, tmp_path: Path, file: str, name: str) -> None:
        report = inspect_bytes(tmp_path, make_model(image(16), [zeros(1, 20)]), file)
        assert accepted(report, tmp_path).name == name

    def test_a_version_in_the_metadata_is_taken_if_it_can_name_a_folder(self, tmp_path: Path) -> None:
        report = inspect_bytes(tmp_path, make_model(image(16), [zeros(1, 20)], full_metadata()))
        assert accepted(report, tmp_path).version == "v1"

    def test_small_numbers_survive_yaml(self, tmp_path: Path) -> None:
        """PyYAML reads 1e-05 as a text."""
        given = TensorSpec("image", (1, 16, 16, 3), "uint8", scale=100_000.0)
        report = inspect_bytes(tmp_path, make_model(given, [zeros(1, 20)]))
        assert accepted(report, tmp_path).input.std == (1e-05,)

    def test_unknown_grids_of_anchors_are_said_to_be_unknown(self, tmp_path: Path) -> None:
        report = inspect_bytes(tmp_path, make_model(image(320), [zeros(1, 777, 4), zeros(1, 777, 5)]))
        assert "fit no grid that is known here" in report.suggestion.reasons["decoder.type"]
        assert manifest_yaml(report)


class TestErrors:
    def test_a_missing_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"none\.tflite: no such file or directory"):
            inspect_model(tmp_path / "none.tflite")

    def test_a_folder(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="is a directory"):
            inspect_model(tmp_path)

    def test_a_file_larger_than_any_model(self, tmp_path: Path) -> None:
        with (tmp_path / "big.tflite").open("wb") as file:
            file.truncate((1 << 30) + 1)  # sparse
        with pytest.raises(ModelError, match=r"big\.tflite: larger than 1073741824 bytes"):
            inspect_model(tmp_path / "big.tflite")

    def test_something_else_is_named_with_the_path(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"thing\.tflite: not a TFLite model: this is a web page"):
            inspect_bytes(tmp_path, b"<html></html>")

    def test_a_truncated_file(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"thing\.tflite: the model file is truncated"):
            inspect_bytes(tmp_path, make_model(image(16))[:-40])

    def test_a_missing_operator(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match=r"thing\.tflite: the model needs the operator Frobnicate"):
            inspect_bytes(tmp_path, make_model(image(16), custom_op="Frobnicate"))


@pytest.mark.parametrize(
    ("bundle", "task"),
    [
        ("face", "detect"),
        ("face_full", "detect"),
        ("ssd_oidv4", "detect"),
        ("selfie", "segment"),
        ("digits", "classify"),
    ],
)
def test_real_models_get_manifests_that_fit(tmp_path: Path, bundle: str, task: str) -> None:
    if bundle == "selfie" and Interpreter(make_model(image(8)), threads=1).runtime.package == "tflite-runtime":
        pytest.skip("tflite-runtime lacks its Convolution2DTransposeBias")
    report = inspect_model(model_path(bundle))
    assert accepted(report, tmp_path).task == task
    assert format_report(report).endswith(manifest_yaml(report))
