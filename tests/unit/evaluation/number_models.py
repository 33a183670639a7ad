"""Bundles that give numbers, and data for them. Their model doubles what it gets, so that answers are known."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.unit.inference.tiny_models import TensorSpec, make_sum
from tools.picture_set import Entry, digest, write_index

TOO_LARGE = 3e38
"""Twice of it is inf in float32: the model gives no values."""


def number_bundle(folder: Path, shape: tuple[int, ...], given: dict[str, Any], decoder: dict[str, Any]) -> Path:
    """Decoders `regress` and `forecast`; returns the bundle's folder."""
    folder.mkdir(parents=True)
    (folder / "model.tflite").write_bytes(make_sum([TensorSpec("x", shape)]))
    manifest = {"name": "doubles", "version": "1", "task": "regress", "input": given, "decoder": decoder}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest | {"labels": None}))
    return folder


def pair_bundle(folder: Path) -> Path:
    """Takes a sample of two channels and gives four times the first and the second, plus one."""
    given = {"type": "series", "channels": ["a", "b"], "samples": 1}
    return number_bundle(folder, (1, 1, 2), given, {"type": "regress", "scale": 2.0, "offset": 1.0})


def pair_set(folder: Path, rows: Sequence[tuple[tuple[float, float], str]], split: str = "test") -> Path:
    """A window for each row: what it holds, and its label."""
    (folder / "windows").mkdir(parents=True)
    entries = []
    for number, (values, label) in enumerate(rows):
        path = folder / "windows" / f"{number:03}.npy"
        np.save(path, np.array([values], np.float32))
        entries.append(Entry(f"windows/{path.name}", label, f"tank-{number}", split, digest(path.read_bytes())))
    write_index(folder, entries)
    return folder


def forecast_bundle(folder: Path, channels: Sequence[str] = (), **given: Any) -> Path:
    """Takes 4 samples of a and b, a window every 3 samples, and says twice what it got (less the mean of the channel).

    The output has 4 steps of both channels; or 8 steps of one.
    """
    series = {
        "type": "series",
        "channels": ["a", "b"],
        "samples": 4,
        "stride": 3,
        "mean": [1.0, -2.0],
        "std": [1.0, 4.0],
    }
    return number_bundle(folder, (1, 4, 2), series | given, {"type": "forecast", "channels": list(channels)})


def readings(path: Path, rows: Sequence[Sequence[object]], header: str = "b,other,a") -> Path:
    """A CSV file; None is a missing value."""
    text = "".join(",".join("" if cell is None else str(cell) for cell in row) + "\n" for row in rows)
    path.write_text(f"{header}\n{text}")
    return path
