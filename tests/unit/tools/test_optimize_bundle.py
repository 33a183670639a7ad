"""A bundle with a smaller model: what becomes of the manifest."""

import shutil
from pathlib import Path

import pytest

from agent.manifest import load_manifest
from tests.sim.bundles import make_bundle, model_path
from tools.optimize_bundle import candidate_folder, with_key
from tools.training import TrainError

MANIFEST = """\
# a comment
name: digits
metrics: {f1: 0.9,
  accuracy: 0.8}
reference:
  samples: 3
  classes: {"1": 1.0}
threads: 4
"""


def test_a_key_is_put_in_place_of_the_one_there_or_at_the_end() -> None:
    assert with_key(MANIFEST, "threads", "1").endswith("\nthreads: 1\n")
    assert with_key(MANIFEST, "embedding", '"a\\\\b"') == f'{MANIFEST}embedding: "a\\\\b"\n'
    without = with_key(with_key(MANIFEST, "metrics", None), "reference", None)
    assert without == "# a comment\nname: digits\nthreads: 4\n"


def test_what_the_old_model_answered_is_left_out(tmp_path: Path) -> None:
    whole = make_bundle("digits_float", tmp_path) / "digits_float" / "1"
    text = (whole / "manifest.yaml").read_text()
    for key, value in (
        ("metrics", "{f1: 0.9}"),
        ("embedding", "StatefulPartitionedCall:1"),
        ("reference", '{samples: 1, classes: {"1": 1.0}, confidence: {edges: [0.5], shares: [0.0, 1.0]}}'),
    ):
        text = with_key(text, key, value)
    (whole / "manifest.yaml").write_text(text)
    model = Path(shutil.copyfile(model_path("digits"), tmp_path / "int8.tflite"))
    made = load_manifest(candidate_folder(whole, "labels.txt", model, tmp_path) / "manifest.yaml")
    assert (made.version, made.metrics, made.embedding, made.reference) == ("1-int8", {}, None, None)
    assert made.golden is not None
    with pytest.raises(TrainError, match="another candidate has this name"):
        candidate_folder(whole, "labels.txt", model, tmp_path)
