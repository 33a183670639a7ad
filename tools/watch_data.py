"""Make the series of the examples out of seglearn's recordings of a watch.

    python3 tools/fetch_models.py series
    python3 tools/watch_data.py

Ten people did seven shoulder exercises with a watch on the wrist, twenty times each (D. Burns and others, "Shoulder
physiotherapy exercise recognition", arXiv:1802.01489; seglearn 1.2.5, BSD-3-Clause). One of them, the pendulum, stands
for a machine at its usual work: a part that swings. The other six stand for what goes wrong.

    .cache/data/swing/train-*.csv       people 1 to 5, the pendulum and nothing else
    .cache/data/swing/validation.csv    people 6 and 7, with other movements between: the threshold is chosen on these
    agent/demo/swing.csv                people 8 to 10 likewise: held out, nothing is chosen on these
    .cache/data/movements/NAME/person-N/ all that is there, a file for each recording, for tools/dataset.py series

A row is a sample at 50 Hz: acceleration in g, and 1 where it is another movement. The last two are joined of pieces, as
the recordings hold one movement each: a piece of the usual, four seconds of another movement by the same arm, and so
on.
"""

import argparse
import pickle
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
WATCH = ROOT / ".cache" / "data" / "watch_dataset.npy"
SERIES = ROOT / ".cache" / "data" / "swing"
HELD_OUT = ROOT / "agent" / "demo" / "swing.csv"
MOVEMENTS = ROOT / ".cache" / "data" / "movements"
NAMES = ("pendulum", "abduction", "forward-elevation", "internal-rotation", "external-rotation", "trapezius", "row")
"""Of the exercises, in the order of their numbers; the package calls them PEN, ABD, FEL, IR, ER, TRAP and ROW."""

HEADER = "accel_x_g,accel_y_g,accel_z_g,is_anomaly"
CHANNELS = "accel_x_g,accel_y_g,accel_z_g,gyro_x_rad_s,gyro_y_rad_s,gyro_z_rad_s"
RATE_HZ = 50
USUAL = 0
OTHERS = (1, 2, 3, 4, 5, 6)
TRAIN, VALIDATION, HELD_OUT_PEOPLE = (1, 2, 3, 4, 5), (6, 7), (8, 9, 10)
PARTS = 3
"""Into how many pieces a recording of the usual is cut; another movement follows each."""
ANOMALY_S = 4

Rows = NDArray[np.float64]


class Recording(NamedTuple):
    """One movement of one arm, rows of acceleration in g and of angular velocity in rad/s."""

    person: int
    side: int
    movement: int
    rows: Rows


class _ArraysOnly(pickle.Unpickler):
    """A pickle may run anything; this one may make numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in {
            ("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode"),
        }:  # fmt: skip
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def load_recordings(path: Path) -> list[Recording]:
    """What is in the package's file. Raises OSError, pickle.UnpicklingError."""
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        data = _ArraysOnly(file).load().item()
    return [
        Recording(int(person), int(side), int(movement), series[:, :6])
        for series, movement, person, side in zip(data["X"], data["y"], data["subject"], data["side"], strict=True)
    ]


def pieces(recordings: Sequence[Recording], people: Sequence[int]) -> Iterator[tuple[Rows, bool]]:
    """Parts of a stream of acceleration in their order, and whether each is another movement than the usual."""
    turn = 0
    for person in people:
        for side in (0, 1):
            own = {one.movement: one.rows for one in recordings if (one.person, one.side) == (person, side)}
            for part in np.array_split(own[USUAL][:, :3], PARTS):
                yield part, False
                other = own[OTHERS[turn % len(OTHERS)]][:, :3]
                start = len(other) // 3
                yield other[start : start + ANOMALY_S * RATE_HZ], True
                turn += 1


def write_csv(path: Path, parts: Iterator[tuple[Rows, bool]]) -> int:
    """Write parts one after the other; returns the number of rows."""
    lines = [f"{x:.3f},{y:.3f},{z:.3f},{int(other)}" for rows, other in parts for x, y, z in rows.tolist()]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([HEADER, *lines, ""]), encoding="utf-8")
    return len(lines)


def write_movement(one: Recording) -> Path:
    """A file with all six channels, whose class and person the folders tell; returns its path."""
    side = "right" if one.side else "left"
    path = MOVEMENTS / NAMES[one.movement] / f"person-{one.person}" / f"{side}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [",".join(f"{value:.3f}" for value in row) for row in one.rows.tolist()]
    path.write_text("\n".join([CHANNELS, *lines, ""]), encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(arguments)
    try:
        recordings = load_recordings(WATCH)
    except OSError as exc:
        print(f"watch_data: {WATCH}: {exc.strerror}: python3 tools/fetch_models.py series", file=sys.stderr)
        return 1
    usual = [one for one in recordings if one.person in TRAIN and one.movement == USUAL]
    for one in usual:
        path = SERIES / f"train-{one.person}-{'right' if one.side else 'left'}.csv"
        write_csv(path, iter([(one.rows[:, :3], False)]))
    print(f"{SERIES}/train-*.csv: {len(usual)} files, {sum(len(one.rows) for one in usual)} rows")
    for path, people in ((SERIES / "validation.csv", VALIDATION), (HELD_OUT, HELD_OUT_PEOPLE)):
        print(f"{path}: {write_csv(path, pieces(recordings, people))} rows")
    print(f"{MOVEMENTS}: {len({write_movement(one) for one in recordings})} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
