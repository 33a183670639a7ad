"""Bundles of real models for tests: manifest and labels from tests/models, the model from .cache/models.

`make models` brings what is downloaded, `make zoo` builds the rest.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache" / "models"
PICTURES = ROOT / ".cache" / "pictures"
OWN = ROOT / "models"
FOR_TESTS = ROOT / "tests" / "models"


@dataclass(frozen=True)
class _Source:
    """Where the files come from that are not in the repository."""

    model: str | None = None
    """File in .cache/models; None: the bundle has its own."""
    labels: str | None = None
    """File in .cache/models; None: the bundle has its own."""
    mend: str = "python3 tools/fetch_models.py test"


_ZOO = "python3 tools/build_zoo.py"

BUNDLES: dict[str, _Source] = {
    "digits": _Source(),
    "digits_float": _Source(),
    "face": _Source("face_detection_short_range.tflite"),
    "face_full": _Source("face_detection_full_range.tflite"),
    "selfie": _Source("selfie_segmentation.tflite"),
    "ssd_oidv4": _Source("ssd_mobilenet_v2_oidv4_fp16.tflite"),
    "ssd_oidv4_int8": _Source("ssd_oidv4_int8.tflite", "ssd_mobilenet_v2_oidv4.txt", _ZOO),
    "efflite0_fp32": _Source("efflite0_fp32.tflite", "imagenet_labels.txt", _ZOO),
    "efflite0_fp16": _Source("efflite0_fp16.tflite", "imagenet_labels.txt", _ZOO),
    "efflite0_dyn": _Source("efflite0_dyn.tflite", "imagenet_labels.txt", _ZOO),
    "efflite0_int8": _Source("efflite0_int8.tflite", "imagenet_labels.txt", _ZOO),
    "efflite0_uint8": _Source("efflite0_uint8.tflite", "imagenet_labels.txt", _ZOO),
}


def make_bundle(name: str, tmp_path: Path) -> Path:
    """Copy a bundle together; returns the models folder, `tmp_path / "models"`. A second call adds to it.

    Skips the test when the model has not been fetched or built, and fails it where CI=true.
    """
    home, source = home_of(name), BUNDLES[name]
    version = (home / "current").read_text(encoding="utf-8").strip()
    target = tmp_path / "models" / name / version
    shutil.copytree(home / version, target)
    shutil.copy(home / "current", target.parent / "current")
    shutil.copy(model_path(name), target / "model.tflite")
    if source.labels:
        shutil.copy(_need(CACHE / source.labels, source.mend), target / "labels.txt")
    return tmp_path / "models"


def home_of(name: str) -> Path:
    """The folder in the repository that has a bundle's versions."""
    return OWN / name if (OWN / name).is_dir() else FOR_TESTS / name


def model_path(name: str) -> Path:
    """The model file of a bundle; skips or fails as `make_bundle`."""
    source = BUNDLES[name]
    if source.model:
        return _need(CACHE / source.model, source.mend)
    home = home_of(name)
    return home / (home / "current").read_text(encoding="utf-8").strip() / "model.tflite"


def picture_path(name: str) -> Path:
    """A photo by its file name: astronaut.png, chelsea.png, coffee.png, camera.png, rocket.jpg; skips or fails too."""
    return _need(PICTURES / name, "python3 tools/fetch_models.py test")


def _need(path: Path, mend: str) -> Path:
    if not path.is_file():
        text = f"{path} is missing: {mend}"
        if os.environ.get("CI") == "true":
            pytest.fail(text)
        pytest.skip(text)
    return path
