"""tools/evaluate.py for models that tell classes apart: figures worked out by hand, and the digits model."""

import json
import re
import shutil
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.evaluation.classes import Judged, class_figures, class_rows
from agent.evaluation.measures import confuse
from agent.evaluation.tables import class_table, confusion_table
from agent.manifest import load_manifest
from tests.sim.bundles import OWN, make_bundle
from tests.unit.tools.drawn import destroyed, make_set
from tools.evaluate import main

LABELS = ("cat", "dog", "owl")


def judged() -> Judged:
    """Eight samples; the last has no answer."""
    scores = np.array(
        [[.8, .2, 0], [.6, .3, .1], [.3, .7, 0], [0, .9, .1], [.2, .5, .3], [.1, .3, .6], [.5, .1, .4], [0, 0, 0]],
        np.float32,
    )  # fmt: skip
    answers, wanted = [0, 0, 1, 1, 1, 2, 0, None], np.array([0, 0, 0, 1, 1, 1, 2, 2])
    return Judged(confuse(answers, wanted.tolist(), 3), scores, wanted, [1.0] * 8)


def test_average_precision_and_macro_figures_are_scikit_learns() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install -e '.[test]'")
    one, figures = judged(), class_figures(judged(), LABELS, "pictures")
    for number, row in enumerate(figures["classes"]):
        theirs = metrics.average_precision_score(one.wanted == number, one.scores[:, number])
        assert row["average_precision"] == round(theirs, 4)
    table = np.eye(3)[one.wanted]
    assert figures["average_precision"] == round(metrics.average_precision_score(table, one.scores), 4)
    assert (figures["precision"], figures["recall"], figures["f1"]) == (0.4444, 0.4444, 0.4444)


def test_classes_that_nobody_names_have_no_row() -> None:
    confusion = confuse([0, 1], [0, 1], 3)
    rows, curves = class_rows(Judged(confusion, np.eye(3, dtype=np.float32)[:2], np.array([0, 1]), []), LABELS, "n")
    assert [row["label"] for row in rows] == ["cat", "dog"]
    assert curves["mean"] == [1.0] * 101


def test_the_tables() -> None:
    assert class_table(class_rows(judged(), LABELS, "pictures")[0]) == [
        "class  pictures  precision  recall      f1  average precision",
        "cat           3     0.6667  0.6667  0.6667             0.9167",
        "dog           3     0.6667  0.6667  0.6667             0.7556",
        "owl           2     0.0000  0.0000  0.0000             0.3750",
    ]
    assert confusion_table(judged().confusion.table.tolist(), LABELS) == [
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


def test_all_classes_count_whatever_top_k_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Average precision and calibration need every confidence; the answer stays the same."""
    data, folder = make_set(tmp_path / "drawn"), tmp_path / "digits"
    reports = []
    for top_k in ("3", "1"):
        shutil.copytree(OWN / "digits" / "2026.11.1", folder, dirs_exist_ok=True)
        destroyed(7, folder / "model.tflite")  # so that it is not sure of all of them
        manifest = folder / "manifest.yaml"
        manifest.write_text(re.sub(r"top_k: \d+", f"top_k: {top_k}", manifest.read_text()))
        assert main([str(folder), "--data", str(data), "--split", "validation", "--json"]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert load_manifest(manifest).decoder.top_k == 1
    for name in ("average_precision", "brier", "calibration_error", "best_temperature", "reliability", "curves"):
        assert reports[0][name] == reports[1][name]
    assert (reports[0]["accuracy"], len(reports[0]["reliability"])) == (0.9, 2)


def test_pictures_are_drawn_of_all_that_was_measured(tmp_path: Path) -> None:
    data, plots = make_set(tmp_path / "drawn"), [tmp_path / f"{number}.png" for number in range(3)]
    options = zip(("--plot", "--pr-plot", "--calibration-plot"), map(str, plots), strict=True)
    assert main([str(OWN / "digits"), "--data", str(data), "--limit", "5", *chain(*options)]) == 0
    shapes = [cv2.imread(str(plot)).shape for plot in plots]
    assert shapes == [(96 + 480, 96 + 480, 3), (592, 812, 3), (592, 812, 3)]


def test_a_class_that_is_never_answered_is_the_worst(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, folder = make_set(tmp_path / "drawn"), tmp_path / "digits"
    shutil.copytree(OWN / "digits" / "2026.11.1", folder)
    destroyed(7, folder / "model.tflite")
    plot = tmp_path / "confusion.png"
    arguments = [str(folder), "--data", str(data), "--split", "validation", "--plot", str(plot), "--write-metrics"]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert re.search(r"^worst class +7$", said, re.MULTILINE)
    assert re.search(r"^7 +1 +0\.0000 +0\.0000 +0\.0000 ", said, re.MULTILINE)
    metrics = load_manifest(folder / "manifest.yaml").metrics
    assert (metrics["accuracy"], metrics["worst_class"], metrics["worst_f1"]) == (0.9, "7", 0.0)
    picture = cv2.imread(str(plot), cv2.IMREAD_GRAYSCALE)
    assert picture.shape == (96 + 480, 96 + 480)
    seven = 96 + 7 * 48
    assert picture[96 + 2, 96 + 2] < 60
    assert picture[seven + 2, seven + 2] > 200


def test_a_task_without_a_measure_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = make_bundle("selfie", tmp_path)
    assert main([str(models / "selfie"), "--data", "anything"]) == 1
    assert (
        "there is no measure for task segment, only for anomaly, classify, detect, forecast, regress"
        in capsys.readouterr().err
    )


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
