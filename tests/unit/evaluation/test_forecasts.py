"""agent/evaluation/forecasts.py: what a model says comes next against what came, worked out here row by row."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.config import CsvSource
from agent.errors import DataSetError, ModelError, SourceError
from agent.evaluation.evaluate import Labelled, evaluate
from agent.evaluation.forecasts import Recording
from agent.evaluation.series import read_course, read_series
from agent.values import Window
from tests.unit.evaluation.number_models import TOO_LARGE, forecast_bundle, readings

pytestmark = pytest.mark.runtime

MEAN = {"a": 1.0, "b": -2.0}
SAMPLES, STRIDE = 4, 3


def rows(count: int) -> list[list[float]]:
    """Of columns b, other, a; numbers that float32 holds."""
    chance = np.random.default_rng(5)
    return (np.round(chance.normal(0.0, 64.0, (count, 3))) / 8).tolist()


def expected(series: dict[str, Sequence[float]], starts: Sequence[int], steps: int) -> dict[str, Any]:
    """Errors of the model that says 2 x - mean of its own window, for each channel and step: plain sums."""
    said: dict[str, list[list[float]]] = {name: [[] for _ in range(steps)] for name in series}
    naive: dict[str, list[list[float]]] = {name: [[] for _ in range(steps)] for name in series}
    for start in starts:
        for name in series:
            for step in range(steps):
                truth = series[name][start + SAMPLES + step]
                said[name][step].append(2 * series[name][start + step] - MEAN[name] - truth)
                naive[name][step].append(series[name][start + SAMPLES - 1] - truth)
    return {"said": said, "naive": naive}


def mae(errors: Sequence[Sequence[float]]) -> float:
    every = [abs(one) for of_step in errors for one in of_step]
    return sum(every) / len(every)


def measure(tmp_path: Path, data: Path, channels: Sequence[str] = (), *, given: Any = None, **more: Any) -> Any:
    folder = tmp_path / "model"
    if not folder.exists():
        forecast_bundle(folder, channels, **(given or {}))
    return evaluate(folder, Labelled(data, **more))


def test_each_window_is_held_against_the_rows_that_came_next(tmp_path: Path) -> None:
    table = rows(30)
    report = measure(tmp_path, readings(tmp_path / "data.csv", table))
    series = {"a": [row[2] for row in table], "b": [row[0] for row in table]}
    starts = range(0, 30 - 2 * SAMPLES + 1, STRIDE)  # the daemon has 9 windows; what follows the last is not there
    wanted = expected(series, starts, 4)
    assert (report["windows"], report["windows_left_out"], report["steps"]) == (8, 1, 4)
    assert [row["channel"] for row in report["channels"]] == ["a", "b"]
    for row in report["channels"]:
        said, naive = wanted["said"][row["channel"]], wanted["naive"][row["channel"]]
        assert row["mae"] == pytest.approx(mae(said), rel=1e-5)
        assert row["persistence_mae"] == pytest.approx(mae(naive), rel=1e-5)
        assert row["skill"] == pytest.approx(1 - mae(said) / mae(naive), rel=1e-5)
        assert row["rmse"] == pytest.approx(math.sqrt(np.mean(np.square(said))), rel=1e-5)
        by_step = report["by_step_of"][row["channel"]]
        assert [one["mae"] for one in by_step] == pytest.approx([mae([one]) for one in said], rel=1e-5)
        assert [one["persistence_mae"] for one in by_step] == pytest.approx([mae([one]) for one in naive], rel=1e-5)
    for name in ("mae", "rmse", "persistence_mae", "window_mean_mae"):
        assert report[name] == pytest.approx(np.mean([row[name] for row in report["channels"]]), rel=1e-5)
    assert [one["step"] for one in report["by_step"]] == [1, 2, 3, 4]
    assert report["mae"] == pytest.approx(np.mean([one["mae"] for one in report["by_step"]]), rel=1e-5)


def test_only_the_decoders_channels_count(tmp_path: Path) -> None:
    """Eight steps of b: their order in the output is that of the window's values, a and b in turn."""
    table = rows(30)
    report = measure(tmp_path, readings(tmp_path / "data.csv", table), ["b"])
    errors: list[float] = []
    for start in range(0, 30 - 12 + 1, STRIDE):
        given = [row[2] - 1.0 if channel == "a" else (row[0] + 2.0) / 4.0
                 for row in table[start : start + 4] for channel in "ab"]  # fmt: skip
        errors += [abs(8.0 * given[step] - 2.0 - table[start + 4 + step][0]) for step in range(8)]
    assert (report["steps"], report["windows"], report["windows_left_out"]) == (8, 7, 2)
    assert [row["channel"] for row in report["channels"]] == ["b"]
    assert report["mae"] == pytest.approx(np.mean(errors), rel=1e-5)


def test_the_first_windows_are_enough(tmp_path: Path) -> None:
    data = readings(tmp_path / "data.csv", rows(60))
    assert measure(tmp_path, data, limit=5)["windows"] == 5


def test_the_mean_of_the_window_and_persistence_are_said_where_they_are_right(tmp_path: Path) -> None:
    report = measure(tmp_path, readings(tmp_path / "data.csv", [[3.0, 0.0, 5.0]] * 12))
    assert (report["persistence_mae"], report["window_mean_mae"], report["skill"]) == (0.0, 0.0, None)
    assert [row["mae"] for row in report["channels"]] == [4.0, 5.0]  # 2 * 5 - 1 for 5, 2 * 3 + 2 for 3


class TestGaps:
    """Windows that lie over one, or lack what came next, are left out and counted."""

    def test_a_missing_value_takes_the_windows_that_have_it(self, tmp_path: Path) -> None:
        table: list[list[Any]] = rows(30)
        table[10][0] = None  # b: in the future of the windows from 3 and 6 on, in the window from 9 on
        report = measure(tmp_path, readings(tmp_path / "data.csv", table))
        assert (report["windows"], report["windows_left_out"]) == (5, 4)
        table[10] = [1.0, None, 1.0]
        assert measure(tmp_path, readings(tmp_path / "data.csv", table))["windows"] == 8

    def test_with_missing_mean_the_last_sample_and_what_came_next_must_be_there(self, tmp_path: Path) -> None:
        """Row 9 is in the future of the window from 3 on, the last of that from 6 on, and the first of that from 9 on,
        which the model takes as it does on the device."""
        table: list[list[Any]] = rows(30)
        table[9][0] = None
        data = readings(tmp_path / "data.csv", table)
        report = measure(tmp_path, data, given={"missing": "mean"})
        assert (report["windows"], report["windows_left_out"]) == (6, 3)

    @pytest.mark.parametrize(("pause_s", "late", "windows"), [(4.9, 10, 8), (5.1, 10, 5), (5.1, 9, 6)])
    def test_a_pause_over_max_gap_s(self, tmp_path: Path, pause_s: float, late: int, windows: int) -> None:
        """Windows from 3, 6 and 9 on lie over the gap before row 10, or their future does; one may begin with it."""
        times = [0.1 * place + (pause_s if place >= late else 0.0) for place in range(30)]
        timed = [[at_s, *row] for at_s, row in zip(times, rows(30), strict=True)]
        report = measure(tmp_path, readings(tmp_path / "data.csv", timed, "t,b,other,a"), time_column="t")
        assert (report["windows"], report["windows_left_out"]) == (windows, 9 - windows)

    def test_of_slow_readings_the_usual_pause_is_no_gap(self, tmp_path: Path) -> None:
        times = [600 * place + (600 if place >= 10 else 0) for place in range(30)]  # one is missing
        data = readings(
            tmp_path / "data.csv", [[t, *row] for t, row in zip(times, rows(30), strict=True)], "t,b,other,a"
        )
        report = measure(tmp_path, data, time_column="t")
        assert (report["windows"], report["windows_left_out"], report["recorded_s"]) == (5, 4, 18000.0)

    @pytest.mark.parametrize(("pause_s", "windows", "left_out"), [(20, 48, 55), (30_000, 32, 3)])
    def test_at_a_rate_short_pauses_are_held_and_long_ones_are_gaps(
        self, tmp_path: Path, pause_s: int, windows: int, left_out: int
    ) -> None:
        """A pause of 2 s is held. The next is missing from its 5th second on: samples 130 to 279 of 310. Or it is so
        long that windows begin anew behind it, with sample 79 of 109; no sample is in between."""
        times = [0.1 * place + (2 if place >= 30 else 0) + (pause_s if place >= 60 else 0) for place in range(91)]
        data = readings(
            tmp_path / "data.csv", [[t, *row] for t, row in zip(times, rows(91), strict=True)], "t,b,other,a"
        )
        report = measure(tmp_path, data, time_column="t", given={"rate_hz": 10.0, "max_gap_s": 5.0})
        assert (report["windows"], report["windows_left_out"]) == (windows, left_out)

    def test_broken_rows_are_counted(self, tmp_path: Path) -> None:
        table: list[list[Any]] = rows(30)
        table[3][2] = "no"
        assert measure(tmp_path, readings(tmp_path / "data.csv", table))["rows_broken"] == 1


@pytest.mark.parametrize("rate_hz", [None, 2.0, 4.0, 5.0])
def test_windows_are_those_that_the_daemon_cuts(tmp_path: Path, rate_hz: float | None) -> None:
    data = readings(tmp_path / "data.csv", rows(80))
    source = CsvSource(path=str(data), rate_hz=4.0)
    window = Window(channels=("a", "b"), samples=4, stride=3, rate_hz=rate_hz, max_gap_s=5.0, keeps_missing=False)
    recording = Recording(data, read_course(source, window), window, ("a", "b"))
    daemons = read_series(source, window, None).windows
    assert len(daemons) == len(recording.starts) > 10
    for start, one in zip(recording.starts, daemons, strict=True):
        np.testing.assert_array_equal(recording.past(start), one.samples)


def test_also_behind_a_pause_that_is_too_long_to_fill(tmp_path: Path) -> None:
    """Behind which the daemon begins anew: with the 15th row, which none of the windows before ends at."""
    times = [0.1 * place + (20_000 if place >= 15 else 0) for place in range(40)]
    data = readings(tmp_path / "data.csv", [[t, *row] for t, row in zip(times, rows(40), strict=True)], "t,b,other,a")
    source = CsvSource(path=str(data), rate_hz=10.0, time_column="t")
    window = Window(channels=("a", "b"), samples=4, stride=3, rate_hz=10.0, max_gap_s=30_000.0, keeps_missing=False)
    recording = Recording(data, read_course(source, window), window, ("a", "b"))
    daemons = read_series(source, window, None).windows
    assert len(daemons) == len(recording.starts)
    for start, one in zip(recording.starts, daemons, strict=True):
        np.testing.assert_array_equal(recording.past(start), one.samples)


def test_readings_are_averaged_to_the_models_rate(tmp_path: Path) -> None:
    """Two readings a sample; a sample is centred on its time, so that the first has one."""
    table = rows(61)
    report = measure(tmp_path, readings(tmp_path / "data.csv", table), given={"rate_hz": 5.0}, rate_hz=10.0)
    series = {
        name: [table[0][column], *((table[k][column] + table[k + 1][column]) / 2 for k in range(1, 59, 2))]
        for name, column in (("a", 2), ("b", 0))
    }
    wanted = expected(series, range(0, 30 - 8 + 1, STRIDE), 4)
    assert report["windows"] == 8
    assert [row["mae"] for row in report["channels"]] == pytest.approx([mae(wanted["said"][n]) for n in "ab"], rel=1e-5)


def test_windows_without_values_are_counted(tmp_path: Path) -> None:
    table = rows(30)
    table[0][1:] = [0.0, TOO_LARGE]
    data = readings(tmp_path / "data.csv", table)
    report = measure(tmp_path, data)
    assert (report["windows"], report["without_values"], report["windows_left_out"]) == (7, 1, 1)
    with pytest.raises(ModelError, match=r"data.csv: the model gave no finite number for any of 1 windows"):
        measure(tmp_path, data, limit=1)
    with pytest.raises(ModelError, match=r"data.csv: the model gave no finite number for any of 3 windows"):
        measure(tmp_path, readings(data, [[0.0, 0.0, TOO_LARGE]] * 12))


@pytest.mark.parametrize(
    ("count", "message"),
    [(3, "not one whole window of 4 samples"), (7, "not once 8 samples without a gap: a window and 4 steps ahead")],
)
def test_too_short_a_recording_is_said(tmp_path: Path, count: int, message: str) -> None:
    with pytest.raises(DataSetError, match=message):
        measure(tmp_path, readings(tmp_path / "data.csv", rows(count)))


def test_one_reading_makes_no_sample_of_a_rate(tmp_path: Path) -> None:
    """The period is not over."""
    with pytest.raises(DataSetError, match=r"data.csv: not one whole window of 4 samples"):
        measure(tmp_path, readings(tmp_path / "data.csv", rows(1)), given={"rate_hz": 1.0})


def test_a_channel_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no columns 'a' in the header"):
        measure(tmp_path, readings(tmp_path / "data.csv", rows(9), "b,other,c"))
