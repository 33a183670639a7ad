"""tools/evaluate.py for models that tell classes apart: figures worked out by hand, and the digits model."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.manifest import load_manifest
from tests.sim.bundles import OWN, make_bundle
from tests.unit.tools.drawn import destroyed, make_set
from tools.evaluate import main
from tools.evaluate_classes import class_rows, class_table, confusion_table
from tools.measures import Counts, confuse

LABELS = ("cat", "dog", "owl")
ANSWERS = [0, 0, 1, 1, 1, 2, 0, None]
WANTED = [0, 0, 0, 1, 1, 1, 2, 2]


def test_the_confusion_counts_who_was_taken_for_whom() -> None:
    confusion = confuse(ANSWERS, WANTED, 3)
    assert confusion.table.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [1, 0, 0, 1]]
    assert confusion.counts == [Counts(2, 1, 1, 4), Counts(2, 1, 1, 4), Counts(0, 1, 2, 5)]
    assert confusion.accuracy == pytest.approx(4 / 8)


def test_macro_figures_are_scikit_learns() -> None:
    """precision_recall_fscore_support([0,0,0,1,1,1,2,2], [0,0,1,1,1,2,0,3], labels=[0,1,2], average="macro")."""
    assert confuse(ANSWERS, WANTED, 3).macro == pytest.approx((4 / 9, 4 / 9, 4 / 9))
    assert confuse([0, 0, 1, 1], [0, 1, 1, 1], 2).macro == pytest.approx((0.75, 5 / 6, (2 / 3 + 4 / 5) / 2))


def test_classes_that_nobody_names_do_not_count() -> None:
    confusion = confuse([0, 1], [0, 1], 3)
    assert confusion.macro == (1.0, 1.0, 1.0)
    assert [row["label"] for row in class_rows(confusion, LABELS)] == ["cat", "dog"]
    assert confuse([], [], 3).macro == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("answers", [[0], [0, 3], [0, -1]])
def test_answers_are_classes_and_as_many_as_labels(answers: list[int]) -> None:
    if answers == [0, 3]:
        assert confuse(answers, [0, 1], 3).table[1, 3] == 1  # as no answer
        return
    with pytest.raises(ValueError, match=r"1 answers for 2 labels|classes from 0 to 2"):
        confuse(answers, [0, 1], 3)


def test_the_tables() -> None:
    confusion = confuse(ANSWERS, WANTED, 3)
    assert class_table(class_rows(confusion, LABELS)) == [
        "class  pictures  precision  recall      f1",
        "cat           3     0.6667  0.6667  0.6667",
        "dog           3     0.6667  0.6667  0.6667",
        "owl           2     0.0000  0.0000  0.0000",
    ]
    assert confusion_table(confusion.table.tolist(), LABELS) == [
        "label   cat  dog  owl none",
        "cat       2    1    0    0",
        "dog       0    2    1    0",
        "owl       1    0    0    1",
    ]


def test_a_bundle_is_measured_on_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = make_set(tmp_path / "drawn")
    assert main([str(OWN / "digits"), "--data", str(data), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["task"], report["split"], report["pictures"]) == ("classify", "test", 10)
    assert report["accuracy"] == report["f1"] == 1.0
    assert report["confusion"] == np.eye(10, 11, dtype=int).tolist()
    assert report["size_bytes"] == 105200
    assert 0 < report["latency_p50_ms"] <= report["latency_p99_ms"]


def test_a_class_that_is_never_answered_is_the_worst(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, folder = make_set(tmp_path / "drawn"), tmp_path / "digits"
    shutil.copytree(OWN / "digits" / "2026.11.1", folder)
    destroyed(7, folder / "model.tflite")
    plot = tmp_path / "confusion.png"
    arguments = [str(folder), "--data", str(data), "--split", "validation", "--plot", str(plot), "--write-metrics"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "worst class     7\n" in said
    assert "7             1     0.0000  0.0000  0.0000" in said
    metrics = load_manifest(folder / "manifest.yaml").metrics
    assert (metrics["accuracy"], metrics["worst_class"], metrics["worst_f1"]) == (0.9, "7", 0.0)
    picture = cv2.imread(str(plot), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (96 + 480, 96 + 480)
    seven = 96 + 7 * 48
    assert picture[96 + 2, 96 + 2] < 60
    assert picture[seven + 2, seven + 2] > 200


def test_a_task_without_a_measure_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = make_bundle("face", tmp_path)
    assert main([str(models / "face"), "--data", "anything"]) == 1
    assert "no measure for task detect; there are anomaly, classify" in capsys.readouterr().err


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, folder = make_set(tmp_path / "drawn"), tmp_path / "digits"
    shutil.copytree(OWN / "digits" / "2026.11.1", folder)
    (folder / "labels.txt").write_text("".join(f"{label}\n" for label in "abcdefghij"))
    for arguments, message in (
        (["--data", str(tmp_path)], "index.csv: no such file or directory"),
        (["--data", str(data), "--split", "train"], "no picture is in split train"),
        (["--data", str(data)], "the model has no class '0'; it has a, b, c"),
    ):
        assert main([str(folder), *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("evaluate: ")
        assert error.count("\n") == 1
        assert message in error
