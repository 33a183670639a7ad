"""What the tools that train have in common: samples as a network gets them, and TensorFlow in a process of its own."""

import argparse
import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.cli.common import ProgressLine
from agent.inference.preprocess import Preprocess
from agent.inference.series import SeriesPreprocess
from agent.manifest import InputSpec, SeriesInput
from agent.values import Samples, TensorInfo
from tools.build_zoo import VENV, make_venv
from tools.picture_set import Entry, PictureSet

NETWORK = Path(__file__).resolve().parent / "class_network.py"
MAX_INPUT_BYTES = 4 << 30
"""What the samples of a split may take as float32."""

Inputs = NDArray[np.float32]


class TrainError(Exception):
    """One line: what is wrong, where, and how to mend it."""


# --- what the network gets


def inputs(pictures: PictureSet, entries: Sequence[Entry], spec: InputSpec | SeriesInput) -> Inputs:
    """N x height x width x channels, or N x samples x channels, as the agent prepares them for a float model.

    Raises:
        ModelError, DataSetError: a sample can't be used.
        TrainError: they do not fit in memory.
    """
    shape = shape_of(spec)
    if len(entries) * int(np.prod(shape)) * 4 > MAX_INPUT_BYTES:
        mend = "lower --size-px" if isinstance(spec, InputSpec) else "cut fewer windows (--stride of tools/dataset.py)"
        raise TrainError(f"{len(entries)} samples of {shape} take over {MAX_INPUT_BYTES >> 30} GiB: {mend}")
    prepare = _preparer(spec, TensorInfo("input", (1, *shape), "float32"))
    made, one = np.empty((len(entries), *shape), np.float32), np.empty((1, *shape), np.float32)
    with ProgressLine("samples prepared", len(entries)) as progress:
        for place, entry in enumerate(entries):
            prepare(pictures.sample(entry), one)
            made[place] = one[0]
            progress.add()
    return made


def shape_of(spec: InputSpec | SeriesInput) -> tuple[int, ...]:
    """Of one sample, as the network gets it."""
    if isinstance(spec, SeriesInput):
        return spec.samples, len(spec.channels)
    return spec.height_px, spec.width_px, 1 if spec.color == "gray" else 3


def _preparer(spec: InputSpec | SeriesInput, tensor: TensorInfo) -> Callable[[Any, Inputs], object]:
    return SeriesPreprocess(spec, tensor) if isinstance(spec, SeriesInput) else Preprocess(spec, tensor)


def targets(entries: Sequence[Entry], labels: Sequence[str]) -> NDArray[np.int64]:
    """The number of each sample's class. Raises TrainError: one has a label that is none of these."""
    place = {label: number for number, label in enumerate(labels)}
    if unknown := sorted({one.label for one in entries} - place.keys()):
        raise TrainError(f"the model has no class {unknown[0]!r}; it has {', '.join(labels)[:200]}")
    return np.array([place[one.label] for one in entries], np.int64)


def mean_and_std(windows: Samples) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Of each channel of N x samples x channels, rounded. Raises TrainError: a channel never changes."""
    mean, std = windows.mean((0, 1), dtype=np.float64), windows.std((0, 1), dtype=np.float64)
    if not std.min() > 0:
        raise TrainError(f"channel {int(std.argmin())} (from 0) never changes: leave it out of --channels")
    return rounded(mean.tolist()), rounded(std.tolist())


def rounded(values: Sequence[float]) -> tuple[float, ...]:
    """To six digits: what a manifest says."""
    return tuple(float(f"{value:.6g}") for value in values)


def augment_flags(options: argparse.Namespace, spec: InputSpec | SeriesInput) -> list[str]:
    """How samples are changed, from shares of white to what the network gets: for scripts that take them with
    `tools.class_network.add_augment_flags`."""
    unit, low, high = 1.0, -np.inf, np.inf
    if isinstance(spec, InputSpec):
        mean, std = spec.mean[0], spec.std[0]
        unit, low, high = 255.0 / std, -mean / std, (255.0 - mean) / std
    return [
        f"--shift-px={options.shift_px}", f"--rotate-deg={options.rotate_deg}", f"--noise={options.noise * unit}",
        f"--brightness={options.brightness * unit}", f"--low={low}", f"--high={high}",
        *(["--flip"] if options.flip else []),
    ]  # fmt: skip


# --- TensorFlow, in a process of its own


def tensorflow_python() -> str:
    """The interpreter that has TensorFlow: this one, or that of an environment which is made. Raises ZooError."""
    if importlib.util.find_spec("tensorflow") is not None:
        return sys.executable
    make_venv()
    return str(VENV / "bin" / "python")


def run_network(arguments: Sequence[str], script: Path = NETWORK) -> None:
    """Run a script where TensorFlow is. Raises TrainError, ZooError."""
    done = subprocess.run([tensorflow_python(), str(script), *arguments], check=False)
    if done.returncode:
        raise TrainError(f"{script.name} failed with code {done.returncode}: see the lines above")


def want_tensorboard() -> None:
    """Raises TrainError: TensorBoard is not where TensorFlow is; ZooError."""
    python = tensorflow_python()
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('tensorboard') is None)"
    if subprocess.run([python, "-c", code], check=False).returncode:
        raise TrainError(f"--tensorboard: TensorBoard is not there; mend: {python} -m pip install tensorboard")
