"""tools/evaluate.py: the figures in the manifest of models/swing are those that it finds, on either runtime."""

import io
import json
import shutil
from pathlib import Path

import pytest

from agent.cli.replay import replay
from agent.config import CsvSource, load_config
from agent.evaluation.evaluate import Labelled, evaluate
from agent.evaluation.series import read_series
from agent.inference.bundle import load_bundle
from agent.inference.golden import GoldenSet
from agent.inference.locate import find_bundle
from agent.manifest import load_manifest
from tests.sim.bundles import OWN, ROOT
from tools.evaluate import IN_MANIFEST, main

SWING = find_bundle(OWN, "swing")
HELD_OUT = ROOT / "agent" / "demo" / "swing.csv"
DATA = Labelled(HELD_OUT, label_column="is_anomaly", rate_hz=50.0)
COMMAND = ["--data", str(HELD_OUT), "--rate-hz", "50", "--label-column", "is_anomaly"]


@pytest.mark.runtime
def test_the_held_out_data_give_the_figures_in_the_manifest() -> None:
    report, metrics = evaluate(SWING, DATA), load_manifest(SWING / "manifest.yaml").metrics
    assert {name: report[name] for name in IN_MANIFEST["anomaly"]} == {
        name: pytest.approx(metrics[name], abs=0.005) for name in IN_MANIFEST["anomaly"]
    }
    assert metrics["f1"] > 0.9
    assert report["anomalies_found"] == report["anomalies"] == 18


@pytest.mark.runtime
def test_the_golden_windows_give_the_expected_scores() -> None:
    bundle = load_bundle(SWING)
    golden = GoldenSet(SWING, bundle.manifest.golden)
    found = [golden.try_one(index, bundle.run) for index in range(len(golden.samples))]
    assert [agreement for _, agreement, _ in found] == [1.0] * 6
    assert {sample.input: sample.input.startswith("anomaly") for sample, _, _ in found} == {
        sample.input: answer.found.anomaly.is_anomaly for sample, _, answer in found
    }


def test_it_measures_what_the_agent_says() -> None:
    """`replay` with config.sensors.yaml goes the way of the daemon."""
    config = load_config(ROOT / "config.sensors.yaml")
    file = io.BytesIO()
    replay(config, config.pipelines[0], str(HELD_OUT), file)
    said = [json.loads(line)["anomaly"]["is_anomaly"] for line in file.getvalue().splitlines()]
    source = CsvSource(path=str(HELD_OUT), rate_hz=50.0)
    windows = read_series(source, load_bundle(SWING).info.window, "is_anomaly").windows
    right = sum(answer and one.is_anomaly for answer, one in zip(said, windows, strict=True))
    report = evaluate(SWING, DATA)
    assert (right, sum(said)) == (report["true_positives"], report["true_positives"] + report["false_positives"])


def test_scores_are_ranked_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plot = tmp_path / "curve.png"
    assert main([str(SWING), *COMMAND, "--json", "--limit", "200", "--pr-plot", str(plot)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["windows"] == 200
    assert 0.9 < report["average_precision"] <= 1.0
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_figures_are_written_into_the_manifest_and_the_rest_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "swing" / SWING.name
    shutil.copytree(SWING, folder)
    manifest = folder / "manifest.yaml"
    lines = [line for line in manifest.read_text().splitlines() if not line.startswith("metrics:")]
    manifest.write_text("\n".join([lines[0], "metrics:\n  f1: 0.1\n  dataset: old", *lines[1:], ""]))
    assert main([str(folder), *COMMAND, "--json", "--write-metrics", "--dataset", 'its "own"']) == 0
    report = json.loads(capsys.readouterr().out)
    metrics = load_manifest(manifest).metrics
    assert metrics == {name: report[name] for name in IN_MANIFEST["anomaly"]} | {"dataset": 'its "own"'}
    assert manifest.read_text().splitlines()[:-1] == lines


def test_a_models_folder_stands_for_its_current_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(OWN / "swing"), *COMMAND]) == 0
    assert "anomalies found" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(OWN / "swing"), "--data", str(HELD_OUT)], "name the labels with --label-column"),
        ([str(OWN / "digits"), *COMMAND], "not a directory; tools/dataset.py makes a data set"),
        ([str(OWN / "swung"), *COMMAND], "no model 'swung'"),
        ([str(OWN / "swing"), *COMMAND[2:], "--data", "nowhere.csv"], "nowhere.csv: No such file or directory"),
        ([str(OWN / "swing"), *COMMAND, "--label-column", "label"], "no columns 'label' in the header"),
    ],
)
def test_what_is_wrong_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert error.startswith("evaluate: ")
    assert error.count("\n") == 1
    assert message in error


def test_too_short_a_recording_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = tmp_path / "short.csv"
    short.write_text("".join(HELD_OUT.read_text().splitlines(keepends=True)[:50]))
    assert main([str(SWING), *COMMAND, "--data", str(short)]) == 1
    assert "not one whole window of 32 samples" in capsys.readouterr().err
