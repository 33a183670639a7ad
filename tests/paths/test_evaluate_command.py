"""`edge-agent evaluate` as a user types it: by name and by folder, its figures, and how it ends."""

import io
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.__main__ import main
from agent.cli.common import ProgressLine
from tests.paths.test_command_line import edge_agent, one_line
from tests.sim import wait_until
from tests.sim.agent import make_config
from tests.sim.bundles import OWN, ROOT, make_bundle
from tests.sim.labelled import face_set
from tests.unit.evaluation.number_models import forecast_bundle, pair_bundle, pair_set, readings
from tests.unit.tools.drawn import make_set
from tools.evaluate import main as tool

NOWHERE = 9  # the discard port: nobody listens there
LATENCY = ("latency_p50_ms", "latency_p99_ms")


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    return make_config(tmp_path, NOWHERE, make_bundle("face", tmp_path))


def figures(text: str) -> dict[str, Any]:
    """Those that are the same each time."""
    report = json.loads(text)
    assert all(report.pop(name) > 0 for name in LATENCY)
    return report


@pytest.mark.runtime
def test_a_models_name_is_enough_on_a_device(tmp_path: Path, config: dict[str, Any]) -> None:
    """What boxes are reported from, and threads, are those of the pipeline that runs the model."""
    config["pipelines"][0].update(min_confidence=0.9, threads=2)
    data = face_set(tmp_path / "faces")
    done = edge_agent(tmp_path, "evaluate", "face", "--data", str(data), "--json", config=config)
    assert (done.returncode, done.stderr) == (0, "")
    report = figures(done.stdout)
    assert (report["model"], report["threads"], report["min_confidence"], report["pictures"]) == ("face", 2, 0.9, 7)
    assert report["recall"] < 1.0 < 2 * report["map_50"]


@pytest.mark.runtime
def test_the_tool_and_the_device_say_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # there is no configuration, and no need of one
    numbers = pair_set(tmp_path / "numbers", [((1.0, 10.0), "4 41"), ((2.0, 20.0), "10 80")])
    recording = tmp_path / "recording.csv"
    recording.write_text("b;a\n" + "".join(f"{place % 5};{place % 3}\n" for place in range(40)))
    swing = tmp_path / "swing.csv"
    swing.write_text("".join((ROOT / "agent" / "demo" / "swing.csv").read_text().splitlines(keepends=True)[:600]))
    for bundle, arguments in (
        (OWN / "digits", ["--data", str(make_set(tmp_path / "drawn")), "--limit", "7"]),
        (pair_bundle(tmp_path / "pair"), ["--data", str(numbers)]),
        (forecast_bundle(tmp_path / "next"), ["--data", str(recording), "--delimiter", ";"]),
        (OWN / "swing", ["--data", str(swing), "--label-column", "is_anomaly"]),
    ):
        assert main(["evaluate", str(bundle), *arguments, "--json"]) == 0
        on_device = figures(capsys.readouterr().out)
        assert tool([str(bundle), *arguments, "--json"]) == 0
        assert figures(capsys.readouterr().out) == on_device
    assert main(["evaluate", str(bundle), *arguments]) == 0
    assert re.search(rf"^f1 +{on_device['f1']}$", capsys.readouterr().out, re.MULTILINE)


@pytest.mark.runtime
def test_a_model_that_looks_ahead_needs_a_recording_and_no_labels(tmp_path: Path, config: dict[str, Any]) -> None:
    """A ramp of 2 a sample: persistence is 2 off a step ahead, 4 off two steps ahead, and so on."""
    folder = forecast_bundle(tmp_path / "models" / "next" / "1", mean=[0.0], std=[1.0])
    (folder.parent / "current").write_text("1\n")
    data = readings(tmp_path / "ramp.csv", [[0, "x", 2 * place] for place in range(20)])
    done = edge_agent(tmp_path, "evaluate", "next", "--data", str(data), "--json", config=config)
    assert (done.returncode, done.stderr) == (0, "")
    report = figures(done.stdout)
    assert (report["model"], report["task"], report["steps"]) == ("doubles", "regress", 4)
    assert (report["windows"], report["windows_left_out"], report["recorded_s"]) == (5, 1, 19.0)
    assert [one["persistence_mae"] for one in report["by_step_of"]["a"]] == [2.0, 4.0, 6.0, 8.0]
    assert [one["mae"] for one in report["by_step_of"]["b"]] == [0.0] * 4
    starts = [2.0 * 3 * turn for turn in range(5)]
    assert [one["mae"] for one in report["by_step_of"]["a"]] == [
        sum(abs(2 * (start + 2 * step) - (start + 2 * (4 + step))) for start in starts) / 5 for step in range(4)
    ]


class TestHowItEnds:
    """Each error is one line that names what is wrong, with the exit code of its kind."""

    def test_without_a_configuration_a_name_says_nothing(self, tmp_path: Path) -> None:
        done = edge_agent(tmp_path, "evaluate", "face", "--data", "x")
        assert (2, True) == (done.returncode, "name one with --config FILE" in one_line(done))

    @pytest.mark.parametrize(
        ("model", "arguments", "code", "message"),
        [
            ("faec", ["--data", "x"], 3, "no model 'faec' (models there: face)"),
            ("face", ["--data", "x"], 4, "x/annotations.json: no such file or directory"),
            (str(OWN / "digits"), ["--data", "x"], 4, "x/index.csv: no such file or directory"),
            (str(OWN / "swing"), ["--data", "x.csv"], 2, "name the labels with --label-column"),
            (str(OWN / "swing"), ["--data", "x.csv", "--label-column", "y"], 4, "x.csv"),
        ],
    )
    def test_what_can_not_be_used(
        self,
        tmp_path: Path,
        config: dict[str, Any],
        capsys: pytest.CaptureFixture[str],
        model: str,
        arguments: list[str],
        code: int,
        message: str,
    ) -> None:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
        assert main(["evaluate", model, *arguments, "--config", str(tmp_path / "config.yaml")]) == code
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert message in said.err

    def test_labels_that_are_no_numbers(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        data = pair_set(tmp_path / "numbers", [((1.0, 10.0), "4 41"), ((2.0, 20.0), "four")])
        assert main(["evaluate", str(pair_bundle(tmp_path / "pair")), "--data", str(data)]) == 4
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n")) == ("", 1)
        assert f"{data}/index.csv, row 3: label: expected a number for each value that the model gives" in said.err

    def test_a_model_that_is_broken(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "digits"
        shutil.copytree(OWN / "digits" / "2026.11.1", folder)
        (folder / "model.tflite").write_bytes(b"\x89HDF\r\n\x1a\n" * 100)
        assert main(["evaluate", str(folder), "--data", str(make_set(tmp_path / "drawn"))]) == 3
        assert "model.tflite" in capsys.readouterr().err

    @pytest.mark.parametrize("option", ["--limit=0", "--limit=x", "--min-confidence=1.1", "--rate-hz=0", "--split=all"])
    def test_a_wrong_option(self, option: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["evaluate", "face", "--data", "x", option])
        assert option.partition("=")[0] in capsys.readouterr().err.splitlines()[-1]


def test_on_a_terminal_a_bar_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    far, near = os.openpty()
    os.set_blocking(far, False)
    shown = io.BytesIO()
    with open(near, "w") as terminal, open(far, "rb", buffering=0) as screen:  # noqa: PTH123
        monkeypatch.setattr("sys.stderr", terminal)
        with ProgressLine("pictures", 100_000) as progress:

            def is_shown() -> bool:
                progress.add()
                shown.write(screen.read() or b"")
                return b" s left" in shown.getvalue()

            wait_until(is_shown, 20)
    assert re.search(rb"\r\x1b\[K\[\.{24}\] \d+/100000 pictures, \d+/s, \d+ s left", shown.getvalue())
