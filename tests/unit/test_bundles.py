"""Every bundle of the repository is whole, and real models with these manifests find what is in real pictures."""

from pathlib import Path

import cv2
import pytest

from agent.inference.bundle import Bundle, load_bundle
from agent.inference.locate import find_bundle
from agent.manifest import load_labels, load_manifest
from agent.values import Detection
from tests.sim.bundles import BUNDLES, FOR_TESTS, OWN, home_of, make_bundle, needs_litert, picture_path

VERSIONS = sorted(path.parent for home in (OWN, FOR_TESTS) for path in home.glob("*/*/manifest.yaml"))
DIGITS = sorted((Path(__file__).resolve().parents[1] / "golden" / "digits").glob("*.png"))


def load(name: str, tmp_path: Path) -> Bundle:
    if name == "selfie":
        needs_litert("tflite-runtime lacks MediaPipe's operator Convolution2DTransposeBias")
    return load_bundle(find_bundle(make_bundle(name, tmp_path), name))


def run(bundle: Bundle, path: Path, min_confidence: float = 0.4):
    return bundle.run(cv2.imread(str(path)), min_confidence).found


def overlap(a: Detection, b: Detection) -> float:
    """Intersection over union."""
    width = min(a.xyxy[2], b.xyxy[2]) - max(a.xyxy[0], b.xyxy[0])
    height = min(a.xyxy[3], b.xyxy[3]) - max(a.xyxy[1], b.xyxy[1])
    both = max(width, 0.0) * max(height, 0.0)
    areas = [(d.xyxy[2] - d.xyxy[0]) * (d.xyxy[3] - d.xyxy[1]) for d in (a, b)]
    return both / (sum(areas) - both)


@pytest.mark.parametrize("folder", VERSIONS, ids=[f"{path.parent.name}-{path.name}" for path in VERSIONS])
def test_a_manifest_loads_and_names_its_folder(folder: Path) -> None:
    manifest = load_manifest(folder / "manifest.yaml")
    assert (manifest.name, manifest.version) == (folder.parent.name, folder.name)


def test_every_bundle_has_a_current_version_and_is_known_to_the_tests() -> None:
    assert {folder.parent.name for folder in VERSIONS} == set(BUNDLES)
    for name in BUNDLES:
        home = home_of(name)
        assert (home / (home / "current").read_text().strip()) in VERSIONS


@pytest.mark.runtime
@pytest.mark.parametrize("name", BUNDLES)
def test_tensors_labels_and_decoder_fit_the_manifest(name: str, tmp_path: Path) -> None:
    """Loading compares the number of labels with the model's classes, and anchors with its boxes."""
    bundle = load(name, tmp_path)
    assert bundle.info.name == name
    assert bundle.info.warning is None


def test_a_second_bundle_goes_beside_the_first(tmp_path: Path) -> None:
    assert make_bundle("digits", tmp_path) == make_bundle("digits_float", tmp_path)
    assert sorted(path.name for path in (tmp_path / "models").iterdir()) == ["digits", "digits_float"]


# --- what they find


@pytest.mark.runtime
@pytest.mark.parametrize("name", ["face", "face_full"])
def test_a_face_detector_finds_the_faces_and_no_other(name: str, tmp_path: Path) -> None:
    bundle = load(name, tmp_path)
    (astronaut,) = run(bundle, picture_path("astronaut.png"), 0.7).detections
    assert astronaut.label == "face"
    assert astronaut.xyxy == pytest.approx((177, 77, 276, 176), abs=12)
    assert astronaut.confidence == pytest.approx(0.92, abs=0.03)
    assert len(run(bundle, picture_path("camera.png"), 0.7).detections) == 1
    for other in ("coffee.png", "rocket.jpg"):
        assert run(bundle, picture_path(other), 0.7).detections == []


@pytest.mark.runtime
@pytest.mark.parametrize(
    ("picture", "label"), [("astronaut.png", "Person"), ("chelsea.png", "Cat"), ("coffee.png", "Coffee cup")]
)
def test_the_ssd_finds_the_same_as_float_and_as_int8(picture: str, label: str, tmp_path: Path) -> None:
    (whole,) = run(load("ssd_oidv4", tmp_path), picture_path(picture)).detections
    (quantised,) = run(load("ssd_oidv4_int8", tmp_path), picture_path(picture)).detections
    assert (whole.label, quantised.label) == (label, label)
    assert quantised.confidence == pytest.approx(whole.confidence, abs=0.15)
    assert overlap(whole, quantised) > 0.75


@pytest.mark.runtime
@pytest.mark.parametrize("variant", ["fp32", "fp16", "dyn", "int8", "uint8"])
def test_every_variant_of_efficientnet_knows_the_pictures(variant: str, tmp_path: Path) -> None:
    bundle = load(f"efflite0_{variant}", tmp_path)
    for picture, label in (("coffee.png", "espresso"), ("camera.png", "tripod")):
        best = run(bundle, picture_path(picture)).classes[0]
        assert best.label == label
        assert best.confidence > 0.9


@pytest.mark.runtime
def test_the_segmenter_finds_the_person(tmp_path: Path) -> None:
    (person,) = run(load("selfie", tmp_path), picture_path("astronaut.png")).segments
    assert person.label == "person"
    assert person.share == pytest.approx(0.54, abs=0.05)


@pytest.mark.runtime
@pytest.mark.parametrize("name", ["digits", "digits_float"])
def test_the_drawn_digits_are_recognised(name: str, tmp_path: Path) -> None:
    bundle = load(name, tmp_path)
    best = {path.name: run(bundle, path).classes[0] for path in DIGITS}
    assert len(best) == 20
    assert {path.name[0] for path in DIGITS} == set("0123456789")
    assert {file: file[0] for file in best} == {file: found.label for file, found in best.items()}


def test_the_digits_bundle_is_small_and_says_what_it_reaches() -> None:
    folder = OWN / "digits" / (OWN / "digits" / "current").read_text().strip()
    assert (folder / "model.tflite").stat().st_size <= 120_000
    metrics = load_manifest(folder / "manifest.yaml").metrics
    assert metrics["accuracy"] > 0.99
    assert "MNIST" in metrics["dataset"]


@pytest.mark.parametrize(
    "written",
    [b"face\ncat\n", b"face\r\ncat\r\n\r\n", b"\xef\xbb\xbfface\r\ncat"],
    ids=["unix", "windows", "windows-with-a-mark-of-byte-order"],
)
def test_labels_are_the_same_whatever_editor_wrote_them(written: bytes, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(written)
    assert load_labels(tmp_path / "labels.txt") == ("face", "cat")
