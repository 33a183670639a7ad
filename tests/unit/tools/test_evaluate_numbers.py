"""tools/evaluate.py for models that give numbers, now or ahead: tables, plots, the manifest, sets made of folders."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from agent.manifest import load_manifest
from tests.unit.evaluation.number_models import forecast_bundle, number_bundle, pair_bundle, pair_set, readings
from tests.unit.evaluation.test_forecasts import rows
from tests.unit.evaluation.test_regression import LEVELS
from tools.dataset import main as dataset
from tools.evaluate import main
from tools.evaluate_plots import BLUE, draw_scatter, draw_steps

pytestmark = pytest.mark.runtime


def test_numbers_are_printed_drawn_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data, plot = pair_bundle(tmp_path / "model"), pair_set(tmp_path / "data", LEVELS), tmp_path / "scatter.png"
    assert main([str(folder), "--data", str(data), "--plot", str(plot), "--write-metrics"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^mae +1\.75$", said, re.MULTILINE)
    assert re.search(r"^value +mae +rmse +r2 +median absolute error .*\n0 +0\.5 .*\n1 +3\.0 ", said, re.MULTILINE)
    metrics = load_manifest(folder / "manifest.yaml").metrics
    assert (metrics["mae"], metrics["bias"], metrics["windows"], metrics["dataset"]) == (1.75, -1.0, 4, "data")
    assert cv2.imread(str(plot)).shape == (2 * 592, 812, 3)


def test_forecasts_are_printed_drawn_and_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, data, plot = forecast_bundle(tmp_path / "m"), readings(tmp_path / "d.csv", rows(30)), tmp_path / "steps.png"
    assert main([str(folder), "--data", str(data), "--plot", str(plot), "--write-metrics", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    metrics = load_manifest(folder / "manifest.yaml").metrics
    assert {name: metrics[name] for name in ("mae", "persistence_mae", "skill", "steps", "windows")} == {
        name: report[name] for name in ("mae", "persistence_mae", "skill", "steps", "windows")
    }
    assert cv2.imread(str(plot)).shape == (2 * 592, 812, 3)
    assert main([str(folder), "--data", str(data)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^channel +mae +persistence mae .*\na +[0-9.]+ .*\nb +", said, re.MULTILINE)
    assert re.search(r"^step +mae +persistence mae .*\n1 +.*\n2 +.*\n3 +.*\n4 +", said, re.MULTILINE)


def test_figures_without_a_number_do_not_get_into_the_manifest(tmp_path: Path) -> None:
    """One sample has no R2."""
    folder, data = pair_bundle(tmp_path / "model"), pair_set(tmp_path / "data", LEVELS[:1])
    assert main([str(folder), "--data", str(data), "--write-metrics"]) == 0
    metrics = load_manifest(folder / "manifest.yaml").metrics
    assert ("r2" in metrics, metrics["mae"]) == (False, 0.5)


def test_curves_are_not_drawn_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--data", str(pair_set(tmp_path / "data", LEVELS)), "--pr-plot", str(tmp_path / "x.png")]
    assert main([str(pair_bundle(tmp_path / "model")), *arguments]) == 1
    assert "--pr-plot: there is nothing to draw for task regress" in capsys.readouterr().err


def test_answers_that_are_right_lie_on_the_diagonal(tmp_path: Path) -> None:
    draw_scatter(tmp_path / "plot.png", [[0.0], [10.0], [5.0]], [[0.0], [10.0], [0.0]])
    blue = (cv2.imread(str(tmp_path / "plot.png")) == BLUE).all(axis=2)
    assert blue[536, 56]  # 0, 0: the left lower corner
    assert blue[56, 536]  # 10, 10: the right upper one
    assert blue[536, 56 + 240]  # 0 for 5
    assert not blue[536 - 240, 56 + 240]


def test_the_same_number_each_time_can_be_drawn(tmp_path: Path) -> None:
    draw_scatter(tmp_path / "plot.png", [[0.0], [0.0]], [[0.0], [0.0]])
    assert cv2.imread(str(tmp_path / "plot.png")).shape == (592, 812, 3)
    right = [{"step": 1, "mae": 0.0, "persistence_mae": 0.0, "window_mean_mae": 0.0}]
    draw_steps(tmp_path / "steps.png", dict.fromkeys(map(str, range(30)), right))
    assert cv2.imread(str(tmp_path / "steps.png")).shape == (20 * 592, 812, 3)


def test_folders_named_after_numbers_are_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Gray pictures of 2 x 1 px; the model says twice what they hold."""
    for level, gray in (("20", (10, 10)), ("40.5", (20, 20)), ("60", (30, 32))):
        home = tmp_path / "pictures" / f"{level} {level}" / f"day-{level}"
        home.mkdir(parents=True)
        cv2.imwrite(str(home / "1.png"), np.array([gray], np.uint8))
    out, named = tmp_path / "data", ["--test-sources", "day-20", "day-40.5", "day-60"]
    assert dataset(["folder", str(tmp_path / "pictures"), "--out", str(out), "--licence", "own", *named]) == 0
    given = {"type": "image", "width_px": 2, "height_px": 1, "color": "gray"}
    folder = number_bundle(tmp_path / "model", (1, 1, 2, 1), given, {"type": "regress"})
    capsys.readouterr()
    assert main([str(folder), "--data", str(out), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["pictures"], report["points"]["labels"]) == (3, [[20, 20], [40.5, 40.5], [60, 60]])
    assert [row["mae"] for row in report["values"]] == pytest.approx([0.5 / 3, 4.5 / 3], rel=1e-5)
