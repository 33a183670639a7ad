"""agent/evaluation on real models and pictures with boxes, against pycocotools and what the agent says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.errors import DataSetError, ModelError
from agent.evaluation.box_set import ANNOTATIONS, load_boxes
from agent.evaluation.boxes import Picture
from agent.evaluation.detections import RANKED_FROM, judge_boxes, known_labels
from agent.evaluation.evaluate import Labelled, evaluate
from agent.inference.bundle import Bundle, load_bundle
from agent.inference.locate import find_bundle
from tests.sim.bundles import make_bundle
from tests.sim.labelled import BoxSetMaker, face_set, thing_set
from tests.unit.evaluation import coco

SETS = {"face": face_set, "ssd_oidv4": thing_set}


def answers(bundle: Bundle, data: Any, label: str) -> list[Picture]:
    """What a model says of one class, picture by picture."""
    found = []
    for picture in data.pictures:
        given = [one for one in bundle.run(data.picture(picture), RANKED_FROM).found.detections if one.label == label]
        corners = np.array([one.xyxy for one in given], np.float64).reshape(-1, 4)
        boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
        labelled = [one.xywh for one in picture.boxes if one.label == label]
        confidences = np.array([one.confidence for one in given])
        crowds = np.zeros(len(labelled), np.bool_)
        found.append(Picture(confidences, boxes, np.array(labelled, np.float64).reshape(-1, 4), crowds))
    return found


@pytest.mark.runtime
@pytest.mark.parametrize("name", SETS)
def test_a_real_model_has_the_average_precision_that_pycocotools_finds(name: str, tmp_path: Path) -> None:
    folder = find_bundle(make_bundle(name, tmp_path), name)
    path = SETS[name](tmp_path / "data")
    report, data, bundle = evaluate(folder, Labelled(path)), load_boxes(path), load_bundle(folder)
    labels = [row["label"] for row in report["classes"]]
    theirs = coco.precisions({label: answers(bundle, data, label) for label in labels})
    assert report["map_50_95"] == pytest.approx(np.mean([*theirs.values()]), abs=5.1e-5)
    assert report["map_50"] == pytest.approx(np.mean([table[0] for table in theirs.values()]), abs=5.1e-5)
    assert report["map_75"] == pytest.approx(np.mean([table[5] for table in theirs.values()]), abs=5.1e-5)
    for row in report["classes"]:
        assert row["ap_50_95"] == pytest.approx(theirs[row["label"]].mean(), abs=5.1e-5)
        np.testing.assert_allclose(report["curves"]["classes"][row["label"]], theirs[row["label"]][0], atol=5.1e-5)
    assert 0.2 < report["map_50_95"] < report["map_50"] <= 1


@pytest.mark.runtime
def test_precision_and_recall_are_of_what_the_agent_reports(tmp_path: Path) -> None:
    """Its boxes are averaged over all candidates that reach min_confidence: another threshold, other boxes."""
    folder = find_bundle(make_bundle("face", tmp_path), "face")
    report = evaluate(folder, Labelled(face_set(tmp_path / "data"), min_confidence=0.5))
    assert (report["pictures"], report["boxes"], report["min_confidence"]) == (7, 5, 0.5)
    (row,) = report["classes"]
    assert (row["recall"], row["precision"]) == (1.0, 0.8333)  # five faces found, and the one without a box
    assert (report["precision"], report["recall"], report["worst_class"]) == (0.8333, 1.0, "face")
    strict = evaluate(folder, Labelled(tmp_path / "data", min_confidence=0.9))
    assert strict["recall"] < 1.0
    assert strict["map_50_95"] == report["map_50_95"]
    assert report["size_bytes"] == (folder / "model.tflite").stat().st_size
    assert 0 < report["latency_p50_ms"] <= report["latency_p99_ms"]


def test_what_the_model_does_not_know_is_told_and_left_out(tmp_path: Path) -> None:
    folder = find_bundle(make_bundle("ssd_oidv4", tmp_path), "ssd_oidv4")
    report = evaluate(folder, Labelled(thing_set(tmp_path / "data"), limit=2))
    assert (report["pictures"], report["categories_left_out"]) == (2, ["Spoon"])
    data = load_boxes(tmp_path / "data")
    assert known_labels(data, None) == ["Person", "Cat", "Coffee cup", "Spoon"]
    with pytest.raises(DataSetError, match=r"the model knows none of its categories \(Person, Cat, .*it has face"):
        known_labels(data, ["face"])


class TestTheSet:
    """What is wrong with it is one line."""

    @pytest.fixture
    def maker(self, tmp_path: Path) -> BoxSetMaker:
        maker = BoxSetMaker(tmp_path / "data")
        maker.add(np.zeros((40, 60, 3), np.uint8), [("face", (1, 2, 30, 20))], split="train")
        maker.add(np.zeros((50, 60, 3), np.uint8), [("face", (1, 2, 30, 20)), ("face", (5, 5, 9, 9))])
        return maker

    def test_a_picture_without_a_split_is_in_all(self, maker: BoxSetMaker) -> None:
        data = load_boxes(maker.write())
        assert [len(data.of(split)) for split in ("train", "test")] == [2, 1]
        assert [len(one.boxes) for one in data.pictures] == [1, 2]
        maker.document["images"][1]["split"] = "validation"
        with pytest.raises(DataSetError, match="no picture is in split test: choose another --split"):
            load_boxes(maker.write()).of("test")

    def test_its_pictures_are_those_that_were_labelled(self, maker: BoxSetMaker) -> None:
        maker.document["images"][0]["width"] = 640
        data = load_boxes(maker.write())
        with pytest.raises(DataSetError, match=r"01.png: 60x40 px, but annotations.json says 640x40"):
            data.picture(data.pictures[0])
        (maker.folder / data.pictures[1].path).write_bytes(b"no")
        with pytest.raises(ModelError, match=r"02.png: not a picture"):
            data.picture(data.pictures[1])

    @pytest.mark.parametrize(
        ("section", "change", "message"),
        [
            ("images", {"file_name": "../secret.png"}, "file_name: expected a path inside the folder"),
            ("images", {"file_name": "/etc/passwd"}, "file_name: expected a path inside the folder"),
            ("images", {"id": 2}, "two images or categories have the same id"),
            ("annotations", {"category_id": 7}, r"annotations\[0\]: there is no such image_id or category_id"),
            ("annotations", {"bbox": [1, 2, 3]}, r"`\$.annotations\[0\].bbox`"),
            ("annotations", {"bbox": [1, 2, -3, 4]}, r"`\$.annotations\[0\].bbox\[2\]`"),
            ("annotations", {"bbox": [1, 1e300, 3, 4]}, r"`\$.annotations\[0\].bbox\[1\]`"),
            ("categories", {"name": "a\x1b[2J"}, "categories: expected short lines of text"),
        ],
    )
    def test_what_is_wrong_is_named(
        self, maker: BoxSetMaker, section: str, change: dict[str, Any], message: str
    ) -> None:
        maker.document[section][0].update(change)
        with pytest.raises(DataSetError, match=message):
            load_boxes(maker.write())

    def test_without_annotations_or_with_other_json(self, tmp_path: Path) -> None:
        with pytest.raises(
            DataSetError, match=r"annotations.json: no such file or directory; a model that finds boxes"
        ):
            load_boxes(tmp_path)
        (tmp_path / ANNOTATIONS).write_text(json.dumps([1]))
        with pytest.raises(DataSetError, match="expected COCO's format for boxes"):
            load_boxes(tmp_path)

    def test_pictures_without_a_box_say_nothing(self, maker: BoxSetMaker, tmp_path: Path) -> None:
        maker.document["annotations"].clear()
        folder = find_bundle(make_bundle("face", tmp_path), "face")
        with pytest.raises(DataSetError, match="not one labelled box of the model's classes"):
            evaluate(folder, Labelled(maker.write()))


def test_each_class_is_judged_by_itself(tmp_path: Path) -> None:
    """A box of another class is no hit, and costs the other nothing."""
    folder = find_bundle(make_bundle("face", tmp_path), "face")
    data = load_boxes(face_set(tmp_path / "data"))
    judged = judge_boxes(load_bundle(folder), ["face", "cat"], data, data.pictures, 0.5)
    assert (judged.ranked["cat"].wanted, judged.ranked["cat"].confidences.size) == (0, 0)
    assert judged.answered["face"].wanted == 5
    assert len(judged.total_ms) == 7
