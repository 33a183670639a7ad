"""Models that find boxes, on pictures with labelled boxes: COCO's mean average precision, and what the agent says."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from math import isnan
from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from agent.errors import DataSetError
from agent.evaluation import boxes
from agent.evaluation.box_set import ANNOTATIONS, BoxSet, LabelledPicture
from agent.evaluation.boxes import OVERLAPS
from agent.evaluation.common import Follow, Model, Report, curves_of, latency, quietly
from agent.values import Detection, Found

RANKED_FROM = 0.001
"""Confidence from which detections count for average precision, which is about their order; usual for COCO."""
_OVERLAP_75 = 5
"""Place of 0.75 among OVERLAPS."""


class Judged(NamedTuple):
    """What a model says of labelled pictures, by class."""

    ranked: Mapping[str, boxes.Judged]
    """From RANKED_FROM on."""
    answered: Mapping[str, boxes.Judged]
    """From the pipeline's min_confidence on: what the agent reports."""
    total_ms: list[float]
    """How long each picture took."""


def judge_boxes(
    model: Model,
    labels: Sequence[str],
    data: BoxSet,
    pictures: Sequence[LabelledPicture],
    min_confidence: float,
    follow: Follow = quietly,
) -> Judged:
    """Only these classes count: what the data do not label can't be judged.

    Each picture is looked at twice, because what the agent says is not what is left of all candidates: boxes that are
    averaged (`nms: weighted`) move with the unsure ones.

    Raises:
        ModelError: the model failed, or a picture can't be used.
        WorkerLost: its process died.
        DataSetError: a picture has another size than its boxes are for.
    """
    ranked: dict[str, list[boxes.Picture]] = defaultdict(list)
    answered: dict[str, list[boxes.Picture]] = defaultdict(list)
    total_ms: list[float] = []
    for picture in follow(pictures, "pictures"):
        image = data.picture(picture)
        answer = model.run(image, min_confidence)
        total_ms.append(answer.preprocess_ms + answer.infer_ms + answer.decode_ms)
        candidates = model.run(image, min(RANKED_FROM, min_confidence))
        for found, into in ((answer.found, answered), (candidates.found, ranked)):
            for label, one in _by_class(found, picture, labels).items():
                into[label].append(one)
    return Judged(
        {label: boxes.judge(ranked[label]) for label in labels},
        {label: boxes.judge(answered[label]) for label in labels},
        total_ms,
    )


def _by_class(found: Found, picture: LabelledPicture, labels: Sequence[str]) -> dict[str, boxes.Picture]:
    """Classes of which the picture has a box, or the answer."""
    given: dict[str, list[Detection]] = defaultdict(list)
    for one in found.detections if found.detections is not UNSET else ():
        given[one.label].append(one)
    named = {one.label for one in picture.boxes} | given.keys()
    return {label: _one_class(given[label], picture, label) for label in labels if label in named}


def _one_class(given: Sequence[Detection], picture: LabelledPicture, label: str) -> boxes.Picture:
    wanted = [one for one in picture.boxes if one.label == label]
    corners = np.array([one.xyxy for one in given], np.float64).reshape(-1, 4)
    corners[:, 2:] -= corners[:, :2]
    return boxes.Picture(
        np.array([one.confidence for one in given], np.float64),
        corners,
        np.array([one.xywh for one in wanted], np.float64).reshape(-1, 4),
        np.array([one.is_crowd for one in wanted], np.bool_),
    )


def known_labels(data: BoxSet, labels: Sequence[str] | None) -> list[str]:
    """The classes that both know; without labels, a model calls its classes by their number, and may know all.

    Raises:
        DataSetError: there are none.
    """
    known = [label for label in data.labels if labels is None or label in labels]
    if not known:
        raise DataSetError(
            f"{data.folder / ANNOTATIONS}: the model knows none of its categories ({', '.join(data.labels)[:100]}); "
            f"it has {', '.join(labels or ())[:200]}"
        )
    return known


def box_figures(judged: Judged, data: BoxSet, pictures: Sequence[LabelledPicture], min_confidence: float) -> Report:
    """All figures. Raises DataSetError: no picture has a box."""
    rows = box_rows(judged)
    measured = [row for row in rows if row["boxes"]]
    if not measured:
        raise DataSetError(
            f"{data.folder / ANNOTATIONS}: not one labelled box of the model's classes in these pictures"
        )
    worst = min(rows, key=lambda row: float(row["f1"]))

    def mean(name: str, of: Sequence[Report]) -> float:
        return round(float(np.mean([row[name] for row in of])), 4)

    return {
        "pictures": len(pictures),
        "boxes": sum(row["boxes"] for row in rows),
        "map_50_95": mean("ap_50_95", measured),
        "map_50": mean("ap_50", measured),
        "map_75": mean("ap_75", measured),
        "min_confidence": min_confidence,
        "precision": mean("precision", rows),
        "recall": mean("recall", rows),
        "f1": mean("f1", rows),
        "worst_class": worst["label"],
        "worst_f1": round(worst["f1"], 4),
        **latency(judged.total_ms),
        "classes": [_rounded(row) for row in rows],
        "categories_left_out": [label for label in data.labels if label not in judged.ranked],
        "curves": curves_of({row["label"]: (judged.ranked[row["label"]].curve(), row["ap_50"]) for row in measured}),
    }


def box_rows(judged: Judged) -> list[Report]:
    """Figures of each class that is labelled or answered at least once; average precision only of those labelled."""
    rows: list[Report] = []
    for label, answered in judged.answered.items():
        counts, ranked = answered.counts(0.0), judged.ranked[label]
        if not ranked.wanted + counts.false_positives:
            continue
        by_overlap = ranked.average_precisions() if ranked.wanted else np.full(len(OVERLAPS), np.nan)
        rows.append(
            {
                "label": label,
                "boxes": ranked.wanted,
                "precision": counts.precision,
                "recall": counts.recall,
                "f1": counts.f1,
                "ap_50_95": float(by_overlap.mean()),
                "ap_50": float(by_overlap[0]),
                "ap_75": float(by_overlap[_OVERLAP_75]),
            }
        )
    return rows


def _rounded(row: Report) -> Report:
    """For people and JSON, which has no NaN."""
    floats = {
        name: None if isnan(value) else round(value, 4) for name, value in row.items() if isinstance(value, float)
    }
    return row | floats
