"""Bundles of real models for tests: manifest and labels from tests/models, the model from .cache/models.

What is fetched must be there in CI. What `make zoo` builds takes TensorFlow and minutes: tests that need it are skipped
wherever it is missing.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.inference.interpreter import Interpreter

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
    is_built: bool = False
    """By tools/build_zoo.py."""


BUNDLES: dict[str, _Source] = {
    "digits": _Source(),
    "digits_float": _Source(),
    "face": _Source("face_detection_short_range.tflite"),
    "face_full": _Source("face_detection_full_range.tflite"),
    "selfie": _Source("selfie_segmentation.tflite"),
    "swing": _Source(),
    "okay_nabu": _Source("okay_nabu.tflite"),
    "alexa": _Source("alexa.tflite"),
    "hey_mycroft": _Source("hey_mycroft.tflite"),
    "melspectrogram": _Source("melspectrogram.tflite"),
    "ssd_oidv4": _Source("ssd_mobilenet_v2_oidv4_fp16.tflite"),
    "ssd_oidv4_int8": _Source("ssd_oidv4_int8.tflite", "ssd_mobilenet_v2_oidv4.txt", is_built=True),
    "efflite0_fp32": _Source("efflite0_fp32.tflite", "imagenet_labels.txt", is_built=True),
    "efflite0_fp16": _Source("efflite0_fp16.tflite", "imagenet_labels.txt", is_built=True),
    "efflite0_dyn": _Source("efflite0_dyn.tflite", "imagenet_labels.txt", is_built=True),
    "efflite0_int8": _Source("efflite0_int8.tflite", "imagenet_labels.txt", is_built=True),
    "efflite0_uint8": _Source("efflite0_uint8.tflite", "imagenet_labels.txt", is_built=True),
}


def make_bundle(name: str, tmp_path: Path) -> Path:
    """Copy a bundle together; returns the models folder, `tmp_path / "models"`. A second call adds to it.

    Skips the test when the model has not been fetched or built; where CI=true, it fails when it has not been fetched.
    """
    home, source = home_of(name), BUNDLES[name]
    version = (home / "current").read_text(encoding="utf-8").strip()
    target = tmp_path / "models" / name / version
    shutil.copytree(home / version, target)
    shutil.copy(home / "current", target.parent / "current")
    shutil.copy(model_path(name), target / "model.tflite")
    if source.labels:
        shutil.copy(_need(CACHE / source.labels, source.is_built), target / "labels.txt")
    return tmp_path / "models"


def home_of(name: str) -> Path:
    """The folder in the repository that has a bundle's versions."""
    return OWN / name if (OWN / name).is_dir() else FOR_TESTS / name


def model_path(name: str) -> Path:
    """The model file of a bundle; skips or fails as `make_bundle`."""
    source = BUNDLES[name]
    if source.model:
        return _need(CACHE / source.model, source.is_built)
    home = home_of(name)
    return home / (home / "current").read_text(encoding="utf-8").strip() / "model.tflite"


def picture_path(name: str) -> Path:
    """A photo by its file name: astronaut.png, chelsea.png, coffee.png, camera.png, rocket.jpg; skips or fails too."""
    return _need(PICTURES / name)


def runtime_in_use() -> tuple[str, str]:
    """Package and version of the TFLite runtime that the agent uses here."""
    runtime = Interpreter((OWN / "digits" / "2026.11.1" / "model.tflite").read_bytes(), threads=1).runtime
    return runtime.package, runtime.version


def needs_litert(what: str) -> None:
    """Skip on tflite-runtime."""
    if runtime_in_use()[0] != "ai-edge-litert":
        pytest.skip(what)


def _need(path: Path, is_built: bool = False) -> Path:
    if not path.is_file():
        mend = "make zoo" if is_built else "python3 tools/fetch_models.py test"
        if os.environ.get("CI") == "true" and not is_built:
            pytest.fail(f"{path} is missing: {mend}")
        pytest.skip(f"{path} is missing: {mend}")
    return path
