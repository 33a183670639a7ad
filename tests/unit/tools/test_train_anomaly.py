"""tools/train_anomaly.py: all but the training, which takes TensorFlow and has a test for `make test-slow`."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from agent.evaluation.anomalies import judge
from agent.evaluation.series import LabelledWindow, read_series
from agent.inference.bundle import load_bundle
from agent.inference.golden import GoldenSet
from agent.manifest import AnomalyDecoder, load_manifest
from agent.values import Samples
from tests.sim.bundles import OWN, ROOT
from tools.build_zoo import VENV
from tools.labelled import csv_source
from tools.train_anomaly import choose, draft, main, make_parser, training_windows, window_of, write_golden

SWING = OWN / "swing" / "2026.11.1"
HELD_OUT = ROOT / "agent" / "demo" / "swing.csv"


def waves(rows: int, seed: int) -> Samples:
    """Two channels that swing, with noise."""
    chance, turns = np.random.default_rng(seed), np.arange(rows)[:, None] / 10 + np.array([[0.0, 1.0]])
    return (np.sin(turns) + chance.normal(0, 0.05, (rows, 2))).astype(np.float32)


def write(path: Path, values: Samples, faults: Samples | None = None) -> Path:
    faults = np.zeros(len(values), np.float32) if faults is None else faults
    rows = (f"{a:.4f},{b:.4f},{fault:g}" for (a, b), fault in zip(values, faults, strict=True))
    path.write_text("\n".join(["a,b,fault", *rows, ""]))
    return path


def options(*arguments: str):
    return make_parser().parse_args(["--name", "wave", "--rate-hz", "10", "--samples", "16", *arguments])


# --- windows


def test_the_last_fifth_is_kept_back_and_shares_no_sample(tmp_path: Path) -> None:
    path = write(tmp_path / "usual.csv", np.arange(2000, dtype=np.float32).reshape(1000, 2))
    given = options("--data", str(path), "--label-column", "fault")
    spec, _ = draft(given)
    assert spec.channels == ("a", "b")
    learned, kept = training_windows(given, window_of(spec))
    assert (learned.shape, kept.shape) == ((772, 16, 2), (197, 16, 2))
    assert learned.max() < kept.min()


def test_rows_with_a_fault_are_not_learned(tmp_path: Path) -> None:
    faults = np.zeros(1000, np.float32)
    faults[400:410] = 1
    path = write(tmp_path / "usual.csv", waves(1000, 1) + 100 * faults[:, None], faults)
    given = options("--data", str(path), "--label-column", "fault", "--channels", "a, b")
    learned, kept = training_windows(given, window_of(draft(given)[0]))
    assert max(learned.max(), kept.max()) < 2


# --- threshold


def swing_windows() -> list[LabelledWindow]:
    table = make_parser().parse_args(["--rate-hz", "50"])
    return read_series(csv_source(HELD_OUT, table), load_bundle(SWING).info.window, "is_anomaly").windows


def test_threshold_and_smoothing_are_those_that_find_labelled_faults_best() -> None:
    manifest, windows = load_manifest(SWING / "manifest.yaml"), swing_windows()
    decoder, how = choose(SWING, manifest, 32, windows, [])
    assert decoder.average_samples in (4, 8, 16, 32)
    assert "F1 0.9" in how


def test_without_labels_the_threshold_lies_well_over_the_usual() -> None:
    manifest = load_manifest(SWING / "manifest.yaml")
    usual = [one for one in swing_windows() if not one.is_anomaly]
    decoder, how = choose(SWING, manifest, 32, [], usual)
    scores = [answer.score for answer in judge(load_bundle(SWING), usual)]
    assert decoder == AnomalyDecoder(threshold=decoder.threshold)
    assert decoder.threshold > np.median(scores)
    assert how == "from the usual alone"


def test_golden_windows_are_of_both_kinds(tmp_path: Path) -> None:
    folder = tmp_path / "swing"
    shutil.copytree(SWING, folder, ignore=shutil.ignore_patterns("golden"))
    write_golden(folder, swing_windows())
    samples = GoldenSet(folder, load_manifest(folder / "manifest.yaml").golden).samples
    assert [sample.input for sample in samples] == [
        f"{kind}-{turn}.npy" for kind in ("usual", "anomaly") for turn in (1, 2, 3)
    ]
    assert [sample.found.anomaly.is_anomaly for sample in samples] == [False] * 3 + [True] * 3


# --- what is wrong


def test_what_is_wrong_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = write(tmp_path / "long.csv", waves(1000, 1))
    short = write(tmp_path / "short.csv", waves(100, 1))
    still = write(tmp_path / "still.csv", np.zeros((1000, 2), np.float32))
    for arguments, message in (
        (["--name", "wave", "--data", str(short)], "windows to learn from, expected 200 or more"),
        (["--name", "wave", "--data", str(still)], "channel 0 (from 0) never changes"),
        (["--name", "No Name", "--data", str(long)], "train_anomaly: name: expected"),
        (["--name", "wave", "--data", str(long), "--channels", "a,a"], "channels: a name is there twice"),
        (["--name", "wave", "--data", str(long), "--channels", "c"], "no columns 'c' in the header"),
        (["--name", "wave", "--data", str(tmp_path / "no.csv")], "no.csv: No such file or directory"),
        (["--name", "swing", "--version", "2026.11.1", "--out", str(OWN), "--data", str(long)], "is there already"),
    ):
        assert main(["--out", str(tmp_path / "models"), *arguments]) == 1
        error = capsys.readouterr().err
        assert error.startswith("train_anomaly: ")
        assert error.count("\n") == 1
        assert message in error
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data and --name are needed"),
        (["--name", "wave", "--data", "a.csv", "--validation", "b.csv"], "--validation wants --label-column"),
        (["--name", "wave", "--data", "a.csv", "--samples", "0"], "invalid whole value"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


# --- the whole way


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_model_of_ones_own_machine(tmp_path: Path) -> None:
    """Trained on the usual alone, it tells a stuck channel from it."""
    if not (VENV / "ready.txt").is_file():
        pytest.skip("TensorFlow is not there: python3 tools/build_zoo.py --only-venv")
    path = write(tmp_path / "usual.csv", waves(3000, 1))
    more = ["--label-column", "fault", "--steps", "2000", "--out", str(tmp_path / "models")]
    assert main(["--name", "wave", "--data", str(path), "--rate-hz", "10", "--samples", "16", *more]) == 0
    folder = tmp_path / "models" / "wave" / "1"
    assert (tmp_path / "models" / "wave" / "current").read_text() == "1\n"
    bundle, usual, stuck = load_bundle(folder), waves(16, 2), waves(16, 2)
    stuck[:, 1] = 0.0
    said = judge(bundle, [LabelledWindow(usual, 0.0, 0.0), LabelledWindow(stuck, 1.0, 0.0)])
    assert [one.is_anomaly for one in said] == [False, True]
