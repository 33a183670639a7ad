"""pycocotools on the same boxes: what agent/evaluation is held against."""

import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.evaluation.boxes import Picture


def precisions(classes: Mapping[str, Sequence[Picture]]) -> dict[str, NDArray[np.float64]]:
    """pycocotools' precision of each class at 10 overlaps x 101 recalls; -1 where there is nothing to find."""
    coco = pytest.importorskip("pycocotools.coco", reason="pip install -e '.[test]'")
    from pycocotools.cocoeval import COCOeval

    categories = {label: number for number, label in enumerate(classes, start=1)}
    pictures = max(map(len, classes.values()))
    annotations: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for label, number in categories.items():
        for image_id, one in enumerate(classes[label], start=1):
            place = {"image_id": image_id, "category_id": number}
            for box, is_crowd in zip(one.labelled.tolist(), one.is_crowd.tolist(), strict=True):
                more = {"id": len(annotations) + 1, "iscrowd": int(is_crowd), "area": box[2] * box[3]}
                annotations.append({**place, "bbox": box, **more})
            for box, confidence in zip(one.boxes.tolist(), one.confidences.tolist(), strict=True):
                results.append({**place, "bbox": box, "score": confidence})
    with contextlib.redirect_stdout(io.StringIO()):
        truth = coco.COCO()
        truth.dataset = {
            "images": [{"id": image_id, "width": 100, "height": 100} for image_id in range(1, pictures + 1)],
            "categories": [{"id": number, "name": label} for label, number in categories.items()],
            "annotations": annotations,
            "info": {},
        }
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(results), "bbox")
        judge.evaluate()
        judge.accumulate()
    table = judge.eval["precision"][:, :, :, 0, -1]  # overlaps, recalls, classes, area `all`, 100 detections
    return {label: table[:, :, number - 1] for label, number in categories.items()}
