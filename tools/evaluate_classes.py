"""What tools/evaluate.py does for models that tell classes apart: answers to the pictures of a data set, figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.inference.bundle import Bundle
from agent.runtime.files import write_atomic
from tools.measures import Confusion, confuse
from tools.picture_set import DataSetError, Entry, PictureSet

MOST_CLASSES_DRAWN = 100
CELL_PX, MARGIN_PX = 48, 96

Report = dict[str, object]
"""Names and figures, in the order of the table; `classes` and `confusion` are tables of their own."""


class Judged(NamedTuple):
    """What a bundle says of labelled pictures, and how long it took for each, in ms: all of it, on this machine."""

    confusion: Confusion
    total_ms: list[float]


def class_labels(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    """The classes in the bundle's order. Raises DataSetError: it has no labels to compare with."""
    name = bundle.manifest.labels
    if name is None:
        raise DataSetError(f"{folder}: its manifest names no labels; they are what is compared with those of the data")
    return tuple(line.strip() for line in (folder / name).read_text(encoding="utf-8").rstrip("\n").split("\n"))


def judge_classes(bundle: Bundle, labels: Sequence[str], pictures: PictureSet, entries: Sequence[Entry]) -> Judged:
    """The class with the highest confidence, for each picture.

    Raises:
        ModelError: the model failed, or a picture can't be used.
        DataSetError: a picture has a label that the model does not know, or is another than the index says.
    """
    place = {label: number for number, label in enumerate(labels)}
    if unknown := sorted({one.label for one in entries} - place.keys()):
        raise DataSetError(
            f"{pictures.folder}: the model has no class {unknown[0]!r}; it has {', '.join(labels)[:200]}"
        )
    answers: list[int | None] = []
    total_ms: list[float] = []
    for entry in entries:
        answer = bundle.run(pictures.picture(entry), 0.0)
        found = answer.found.classes or []
        answers.append(found[0].class_id if found else None)
        total_ms.append(answer.preprocess_ms + answer.infer_ms + answer.decode_ms)
    return Judged(confuse(answers, [place[one.label] for one in entries], len(labels)), total_ms)


def evaluate_classes(bundle: Bundle, folder: Path, pictures: PictureSet, split: str) -> Report:
    """All figures of a bundle on one split of a data set. Raises ModelError, DataSetError, OSError."""
    labels, entries = class_labels(bundle, folder), pictures.of(split)
    judged = judge_classes(bundle, labels, pictures, entries)
    rows = class_rows(judged.confusion, labels)
    if not rows:
        raise ModelError(f"{folder}: not one answer")
    precision, recall, f1 = judged.confusion.macro
    worst = min(rows, key=lambda row: float(str(row["f1"])))
    return {
        "split": split,
        "pictures": len(entries),
        "accuracy": round(judged.confusion.accuracy, 4),
        "precision": round(precision, 4),
        "recall": round(recall, 4),
        "f1": round(f1, 4),
        "worst_class": worst["label"],
        "worst_f1": worst["f1"],
        "latency_p50_ms": round(float(np.median(judged.total_ms)), 3),
        "latency_p99_ms": round(float(np.quantile(judged.total_ms, 0.99)), 3),
        "size_bytes": (folder / "model.tflite").stat().st_size,
        "data_sha256": pictures.sha256,
        "classes": rows,
        "labels": list(labels),
        "confusion": judged.confusion.table.tolist(),
    }


def class_rows(confusion: Confusion, labels: Sequence[str]) -> list[Report]:
    """Precision, recall and F1 of each class that is a label or an answer at least once."""
    rows: list[Report] = []
    for label, one in zip(labels, confusion.counts, strict=True):
        wanted = one.true_positives + one.false_negatives
        if wanted + one.false_positives:
            figures = {"precision": one.precision, "recall": one.recall, "f1": one.f1}
            rows.append({"label": label, "pictures": wanted} | {k: round(v, 4) for k, v in figures.items()})
    return rows


# --- what is shown


def class_table(rows: Sequence[Report]) -> list[str]:
    """A line for each class."""
    width = max(len("class"), *(len(str(row["label"])) for row in rows))
    lines = [f"{'class':{width}}  pictures  precision  recall      f1"]
    for row in rows:
        figures = f"{row['precision']:9.4f}  {row['recall']:6.4f}  {row['f1']:6.4f}"
        lines.append(f"{row['label']!s:{width}}  {row['pictures']:8d}  {figures}")
    return lines


def confusion_table(table: Sequence[Sequence[int]], labels: Sequence[str]) -> list[str]:
    """A line for each label, a column for each answer; the last, for no answer, only where there is one."""
    heads = [*labels, "none"] if any(row[-1] for row in table) else list(labels)
    shown = [row[: len(heads)] for row in table]
    width = max(len(str(value)) for row in (heads, *shown) for value in row)
    first = max(len("label"), *map(len, labels))
    lines = [f"{'label':{first}}  " + " ".join(f"{head:>{width}}" for head in heads)]
    for label, row in zip(labels, shown, strict=True):
        lines.append(f"{label:{first}}  " + " ".join(f"{value:{width}d}" for value in row))
    return lines


def draw_confusion(path: Path, table: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """A PNG: labels down, answers across, the darker the more of a label's pictures.

    Raises:
        DataSetError: there are too many classes for a picture.
        OSError: it can't be written.
    """
    if len(labels) > MOST_CLASSES_DRAWN:
        raise DataSetError(f"{path}: {len(labels)} classes; a picture shows {MOST_CLASSES_DRAWN} at most")
    side = MARGIN_PX + CELL_PX * len(labels)
    picture: NDArray[np.uint8] = np.full((side, side), 255, np.uint8)

    def write(text: str, x: int, y: int, ink: int) -> None:
        cv2.putText(picture, text[:10], (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, 1, cv2.LINE_AA)

    for row, label in enumerate(labels):
        top, total = MARGIN_PX + row * CELL_PX, max(1, sum(table[row]))
        write(label, 4, top + CELL_PX // 2 + 4, 0)
        write(label, top + 4, MARGIN_PX - 8, 0)
        for column in range(len(labels)):
            value, left = table[row][column], MARGIN_PX + column * CELL_PX
            share = value / total
            picture[top : top + CELL_PX - 1, left : left + CELL_PX - 1] = round(245 - 200 * share)
            if value:
                write(str(value), left + 4, top + CELL_PX // 2 + 4, 255 if share > 0.5 else 0)
    write("label", 4, MARGIN_PX - 8, 0)
    write("answer", MARGIN_PX, 20, 0)
    _, data = cv2.imencode(".png", picture)
    write_atomic(path, data.tobytes(), mode=0o644)
