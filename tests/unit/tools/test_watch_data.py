"""tools/watch_data.py: how the series of the example are put together, and what may be in a pickle."""

import pickle
from pathlib import Path

import numpy as np
import pytest

from tests.sim.bundles import ROOT
from tools.watch_data import HELD_OUT, HELD_OUT_PEOPLE, WATCH, Recording, load_recordings, pieces, write_csv


def recordings() -> list[Recording]:
    """Movements that can be told by their number."""
    return [
        Recording(person, side, movement, np.full((900, 3), person + side / 10 + movement / 100))
        for person in (1, 2)
        for side in (0, 1)
        for movement in range(7)
    ]


def test_the_usual_and_other_movements_by_the_same_arm_take_turns() -> None:
    parts = list(pieces(recordings(), (1, 2)))
    assert [other for _, other in parts] == [False, True] * 12
    assert {len(rows) for rows, other in parts if other} == {200}
    assert [round(float(rows[0, 0]), 2) for rows, _ in parts[:8]] == [1.0, 1.01, 1.0, 1.02, 1.0, 1.03, 1.1, 1.14]


def test_rows_carry_the_label(tmp_path: Path) -> None:
    path = tmp_path / "new" / "x.csv"
    assert write_csv(path, iter([(np.array([[1, -0.25, 0]]), False), (np.array([[2, 3, 4.0004]]), True)])) == 2
    assert path.read_text() == "accel_x_g,accel_y_g,accel_z_g,is_anomaly\n1.000,-0.250,0.000,0\n2.000,3.000,4.000,1\n"


def test_a_pickle_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(Path("x"), file)
    with pytest.raises(pickle.UnpicklingError, match=r"pathlib.* is not allowed"):
        load_recordings(path)


def test_the_held_out_recording_is_what_the_package_gives(tmp_path: Path) -> None:
    if not WATCH.is_file():
        pytest.skip("python3 tools/fetch_models.py series")
    write_csv(tmp_path / "swing.csv", pieces(load_recordings(WATCH), HELD_OUT_PEOPLE))
    assert (tmp_path / "swing.csv").read_bytes() == HELD_OUT.read_bytes()


def test_the_held_out_recording_is_small_and_its_licence_is_beside_it() -> None:
    assert HELD_OUT == ROOT / "agent" / "demo" / "swing.csv"
    assert HELD_OUT.stat().st_size < 300_000
    assert "Redistribution and use" in HELD_OUT.with_suffix(".LICENSE").read_text()
