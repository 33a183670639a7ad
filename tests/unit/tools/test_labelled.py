"""tools/labelled.py: what a window's label is, and that its samples are those that the agent cuts."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

from agent.errors import SourceError
from agent.evaluation.series import read_series
from agent.values import Window
from tools.labelled import csv_source

TABLE = Namespace(rate_hz=4.0, time_column=None, delimiter=",")


def window(**changes: object) -> Window:
    values = {"channels": ("x",), "samples": 4, "stride": 2, "rate_hz": None, "max_gap_s": 1.0, "keeps_missing": False}
    return Window(**{**values, **changes})


def write(tmp_path: Path, *rows: str) -> Path:
    path = tmp_path / "series.csv"
    path.write_text("\n".join(["x,fault,y", *rows, ""]))
    return path


def test_a_window_is_an_anomaly_when_one_row_of_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, *(f"{place},{2 if place == 5 else 0},9" for place in range(8)))
    series = read_series(csv_source(path, TABLE), window(), "fault")
    assert [one.is_anomaly for one in series.windows] == [False, True, True]
    assert [one.anomalous_share for one in series.windows] == [0.0, 0.25, 0.25]
    assert [one.end_s for one in series.windows] == [0.75, 1.25, 1.75]
    np.testing.assert_array_equal(series.windows[1].samples, np.array([[2], [3], [4], [5]], np.float32))


def test_labels_are_averaged_as_the_values_are(tmp_path: Path) -> None:
    path = write(tmp_path, *(f"{place},{int(place == 3)},9" for place in range(11)))
    series = read_series(csv_source(path, TABLE), window(rate_hz=2.0, samples=2), "fault")
    assert [one.samples.tolist() for one in series.windows] == [[[0.0], [1.5]], [[3.5], [5.5]]]
    assert [one.anomalous_share for one in series.windows] == [0.0, 0.25]


def test_without_labels_nothing_is_an_anomaly(tmp_path: Path) -> None:
    path = write(tmp_path, *["1,1,1"] * 4)
    assert [one.is_anomaly for one in read_series(csv_source(path, TABLE), window(), None).windows] == [False]


def test_what_lacks_a_value_or_a_label_is_left_out_and_counted(tmp_path: Path) -> None:
    path = write(tmp_path, "1,0,1", "1,0,1", "1,,1", "1,0,1", "1,0,1", "1,0,1", ",0,1", "1,0,1", "no,0,1")
    series = read_series(csv_source(path, TABLE), window(stride=4), "fault")
    assert (series.windows, series.left_out, series.broken_rows) == ([], 2, 1)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no columns 'label' in the header"):
        read_series(csv_source(write(tmp_path, "1,1,1"), TABLE), window(), "label")
