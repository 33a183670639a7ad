"""Models that tell classes apart, on the samples of a data set: what was taken for what, and how sure the model was."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agent.errors import DataSetError
from agent.evaluation import calibration
from agent.evaluation.calibration import LEAST_CONFIDENCE, Places, Scores
from agent.evaluation.common import Follow, Model, Report, curves_of, latency, quietly
from agent.evaluation.measures import Confusion, confuse
from agent.evaluation.picture_set import Entry, PictureSet
from agent.evaluation.ranking import Curve, average_precision, curve
from agent.inference.protocol import Answer
from agent.manifest import Manifest, load_labels

MAX_SCORES = 1 << 26
"""Confidences that are held at once: 256 MiB."""


class Judged(NamedTuple):
    """What a model says of labelled samples."""

    confusion: Confusion
    scores: Scores
    """Confidence of each class, samples x classes; 0 for those that it did not name."""
    wanted: Places
    """The labels, as classes."""
    total_ms: list[float]
    """How long each took from sample to answer."""


def class_labels(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """The classes in the bundle's order.

    Raises:
        DataSetError: it has no labels to compare with.
        ModelError: they can't be read.
    """
    if manifest.labels is None:
        raise DataSetError(f"{folder}: its manifest names no labels; they are what is compared with those of the data")
    return load_labels(folder / manifest.labels)


def judge_classes(
    model: Model, labels: Sequence[str], data: PictureSet, entries: Sequence[Entry], follow: Follow = quietly
) -> Judged:
    """Each sample's answer is the class with the highest confidence.

    Raises:
        ModelError: the model failed, or a sample can't be used.
        WorkerLost: its process died.
        DataSetError: a sample has a label that the model does not know, or is another than the index says; or there
            are too many.
    """
    place = {label: number for number, label in enumerate(labels)}
    if unknown := sorted({one.label for one in entries} - place.keys()):
        raise DataSetError(f"{data.folder}: the model has no class {unknown[0]!r}; it has {', '.join(labels)[:200]}")
    if len(entries) * len(labels) > MAX_SCORES:
        raise DataSetError(
            f"{data.folder}: {len(entries)} samples of {len(labels)} classes do not fit into memory: "
            f"--limit {MAX_SCORES // len(labels)}"
        )
    scores = np.zeros((len(entries), len(labels)), np.float32)
    answers: list[int | None] = []
    total_ms: list[float] = []
    for row, entry in zip(scores, follow(entries, "samples"), strict=True):
        answer = model.run(data.sample(entry), LEAST_CONFIDENCE)
        found = answer.found.classes or []
        answers.append(found[0].class_id if found else None)
        for one in found:
            row[one.class_id] = one.confidence
        total_ms.append(total(answer))
    wanted = np.array([place[one.label] for one in entries], np.int64)
    return Judged(confuse(answers, wanted.tolist(), len(labels)), scores, wanted, total_ms)


def total(answer: Answer) -> float:
    """From sample to answer, in ms."""
    return answer.preprocess_ms + answer.infer_ms + answer.decode_ms


def class_figures(judged: Judged, labels: Sequence[str], unit: str) -> Report:
    """All figures; the model must have answered with all classes.

    Args:
        judged: what it said.
        labels: the classes, in order.
        unit: what the samples are called.
    """
    rows, curves = class_rows(judged, labels, unit)
    precision, recall, f1 = judged.confusion.macro
    worst = min(rows, key=lambda row: float(row["f1"]))
    found = [row["average_precision"] for row in rows if row["average_precision"] is not None]
    return {
        unit: len(judged.wanted),
        "accuracy": round(judged.confusion.accuracy, 4),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(f1, 4),
        "average_precision": round(float(np.mean(found)), 4),
        "worst_class": worst["label"],
        "worst_f1": worst["f1"],
        **_calibration(judged.scores, judged.wanted),
        **latency(judged.total_ms),
        "classes": rows,
        "labels": list(labels),
        "confusion": judged.confusion.table.tolist(),
        "curves": curves,
    }


def _calibration(scores: Scores, wanted: Places) -> Report:
    if not calibration.is_distribution(scores):
        return {
            "calibration": "confidences do not add up to 1; `softmax: true` in the decoder if the model gives logits"
        }
    bins = calibration.reliability(scores, wanted)
    temperature = calibration.best_temperature(scores, wanted)
    return {
        "calibration_error": round(calibration.expected_error(bins), 4),
        "brier": round(calibration.brier(scores, wanted), 4),
        "best_temperature": None if temperature is None else round(temperature, 3),
        "reliability": [{name: round(value, 4) for name, value in one._asdict().items()} for one in bins],
    }


def class_rows(judged: Judged, labels: Sequence[str], unit: str) -> tuple[list[Report], Report]:
    """Figures of each class that is a label or an answer at least once; and the precision-recall curves."""
    rows: list[Report] = []
    curves: dict[str, tuple[Curve, float]] = {}
    for number, (label, one) in enumerate(zip(labels, judged.confusion.counts, strict=True)):
        wanted = one.true_positives + one.false_negatives
        if not wanted + one.false_positives:
            continue
        points = curve(judged.scores[:, number], judged.wanted == number)
        if points is not None:
            curves[label] = points, average_precision(points)
        rows.append(
            {
                "label": label,
                unit: wanted,
                "precision": round(one.precision, 4),
                "recall": round(one.recall, 4),
                "f1": round(one.f1, 4),
                "average_precision": None if points is None else round(curves[label][1], 4),
            }
        )
    return rows, curves_of(curves)
