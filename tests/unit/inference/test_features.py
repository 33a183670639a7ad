"""Embeddings, and heads of a device's own, on a real model."""

import io
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.errors import ModelError
from agent.feedback.summary import summarize
from agent.inference.bundle import load_bundle
from agent.manifest import load_manifest
from tests.sim.bundles import ROOT
from tests.sim.embedded import embedded_digits

DIGITS = ROOT / "tests" / "golden" / "digits"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return embedded_digits(tmp_path / "models")


def with_head(folder: Path, head: np.ndarray) -> Path:
    file = io.BytesIO()
    np.save(file, head)
    (folder / "head.npy").write_bytes(file.getvalue())
    with (folder / "manifest.yaml").open("a") as manifest:
        manifest.write("head: head.npy\n")
    return folder


def picture(name: str = "3_0.png") -> np.ndarray:
    return cv2.imread(str(DIGITS / name))


def test_evidence_has_the_embedding_and_every_confidence(folder: Path):
    bundle = load_bundle(folder)
    plain, asked = bundle.run(picture(), 0.5), bundle.run(picture(), 0.5, evidence=True)
    assert plain.evidence is None
    assert plain.found == asked.found
    assert asked.evidence is not None
    embedding = np.frombuffer(asked.evidence.embedding, "<f4")
    assert embedding.shape == (64,)
    assert (embedding >= 0).all()
    assert embedding.any()
    logs = np.frombuffer(asked.evidence.log_confidences, "<f4")
    assert logs.argmax() == 3
    assert np.exp(logs).sum() == pytest.approx(1, abs=0.02)


def test_evidence_tells_what_was_nearly_said(folder: Path):
    torn = cv2.addWeighted(picture("3_0.png"), 0.5, picture("8_1.png"), 0.5, 0)
    answer = load_bundle(folder).run(torn, 1.0, evidence=True)
    assert answer.found.classes == []
    assert answer.evidence is not None
    assert answer.evidence.found.classes


def test_evidence_tells_how_near_the_second_class_was_also_where_one_is_the_answer(folder: Path):
    """Else no frame of a model with `top_k: 1` would ever be kept as one that it is unsure of."""
    torn = cv2.addWeighted(picture("2_0.png"), 0.5, picture("6_0.png"), 0.5, 0)
    both = load_bundle(folder).run(torn, 0.0, evidence=True)
    manifest = folder / "manifest.yaml"
    assert "top_k: 3" in manifest.read_text()
    manifest.write_text(manifest.read_text().replace("top_k: 3", "top_k: 1"))
    answer = load_bundle(folder).run(torn, 0.0, evidence=True)
    assert both.evidence
    assert answer.evidence
    assert len(answer.found.classes) == 1
    assert summarize(answer.evidence.found, 0.5) == summarize(both.evidence.found, 0.5)
    assert summarize(answer.evidence.found, 0.5).margin < 0.1


def test_a_head_of_zeros_changes_nothing(folder: Path):
    before = load_bundle(folder).run(picture(), 0.0).found.classes
    after = load_bundle(with_head(folder, np.zeros((65, 10), np.float32))).run(picture(), 0.0).found.classes
    assert [one.class_id for one in after] == [one.class_id for one in before]
    assert after[0].confidence == pytest.approx(before[0].confidence, abs=0.01)


def test_a_head_corrects_the_answer(folder: Path):
    head = np.zeros((65, 10), np.float32)
    head[-1, 7] = 50.0
    answer = load_bundle(with_head(folder, head)).run(picture(), 0.5, evidence=True)
    assert [one.label for one in answer.found.classes] == ["7"]
    assert np.frombuffer(answer.evidence.log_confidences, "<f4").argmax() == 7


@pytest.mark.parametrize(
    "head",
    [
        np.zeros((64, 10), np.float32),
        np.zeros((65, 10), np.float64),
        np.full((65, 10), np.nan, np.float32),
        np.array([{"pickled": 1}]),
    ],
    ids=["size", "dtype", "nan", "pickle"],
)
def test_a_head_that_does_not_fit_is_one_line(folder: Path, head: np.ndarray):
    with pytest.raises(ModelError, match=r"model\.tflite: head: expected") as caught:
        load_bundle(with_head(folder, head))
    assert "\n" not in str(caught.value)


def test_an_embedding_that_the_model_has_not_names_those_it_has(folder: Path):
    text = (folder / "manifest.yaml").read_text()
    (folder / "manifest.yaml").write_text(text.replace('embedding: "', 'embedding: "no'))
    with pytest.raises(ModelError, match=r"embedding: expected one of .*StatefulPartitionedCall"):
        load_bundle(folder)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("labels: labels.txt", "labels: null\nhead: head.npy", "head: expected only with embedding, labels"),
        ("labels: labels.txt", "labels: labels.txt\nhead: ../head.npy", "head: "),
        ("labels: labels.txt", REFERENCE := "labels: labels.txt\nreference: {samples: 5, classes: {a: 0.5}, "
         "confidence: {edges: [0.5], shares: [0.5, 0.5]}}", "reference: classes: expected shares that add"),
        ("labels: labels.txt", REFERENCE.replace("a: 0.5", "a: 1").replace("[0.5],", "[0.5, 0.5],"), "expected 3"),
        ("labels: labels.txt", REFERENCE.replace("a: 0.5", "a: 1").replace("[0.5],", "[.nan],"), "expected finite"),
    ],
)  # fmt: skip
def test_a_manifest_that_makes_no_sense_is_one_line(folder: Path, old: str, new: str, told: str):
    path = folder / "manifest.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ModelError, match=r"manifest\.yaml") as caught:
        load_manifest(path)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
