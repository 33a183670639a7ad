"""What tools/train.py is to do: which data sets are learned, as what input, from what model on."""

import argparse
import json
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from agent.inference.locate import find_bundle
from agent.manifest import AudioInput, InputSpec, SeriesInput, load_labels, load_manifest
from tools.networks import NETWORKS, WEIGHTS
from tools.picture_set import PictureSet, load_set
from tools.train_manifest import Spec
from tools.training import TrainError, inputs, mean_and_std, targets


class Plan(NamedTuple):
    """All that is known before anything is trained."""

    sets: list[PictureSet]
    weights: list[float]
    """How much a sample of each set counts."""
    labels: tuple[str, ...]
    spec: Spec
    comment: str
    """First line of the manifest."""
    start: Path | None = None
    """A Keras model that learns on."""


def make_plan(options: argparse.Namespace) -> Plan:
    """Raises TrainError, DataSetError, ModelError."""
    sets = [load_set(folder) for folder in options.data]
    weights = options.weights or [1.0] * len(sets)
    if len(weights) != len(sets):
        raise TrainError(f"--weights: expected {len(sets)}, one for each data set, got {len(weights)}")
    for one in sets[1:]:
        if one.series != sets[0].series:
            raise TrainError(f"{one.folder}: its samples are of another kind than those of {sets[0].folder}")
    names = ", ".join(json.dumps(one.folder.resolve().name) for one in sets)
    if options.start is not None:
        return go_on(options, sets, weights, names)
    network, spec = options.network or "cnn", new_input(options, sets[0])
    labels = tuple(sorted({label for one in sets for label in one.labels}))
    comment = f"Network {network}, made by tools/train.py of {names}, seed {options.seed}."
    return Plan(sets, weights, labels, spec, comment)


def new_input(options: argparse.Namespace, first: PictureSet) -> Spec:
    """Of a network that begins. The numbers that windows are normalised by are not known yet."""
    name = options.network or "cnn"
    network, kind = NETWORKS[name], "windows" if first.series else "pictures"
    if kind not in network.takes:
        others = ", ".join(sorted(name for name, one in NETWORKS.items() if kind in one.takes))
        raise TrainError(f"{first.folder}: it has {kind}, which network {name} does not take: choose one of {others}")
    if first.series is not None:
        of_pictures = {"size-px": options.size_px, "color": options.color, "step": options.step}
        if said := [name for name, value in of_pictures.items() if value]:
            raise TrainError(f"--{said[0]}: only for pictures, {first.folder} has windows")
        return first.series
    if name == "transfer" and not WEIGHTS.is_file():
        raise TrainError(f"{WEIGHTS}: no such file; mend: python3 tools/fetch_models.py zoo")
    size_px = options.size_px or network.size_px
    return InputSpec(
        width_px=size_px,
        height_px=size_px,
        color=options.color or network.color,
        mean=(network.mean,),
        std=(network.std,),
        steps=tuple(options.step),
    )


def go_on(options: argparse.Namespace, sets: list[PictureSet], weights: list[float], names: str) -> Plan:
    """From a model that is there: input and classes are its own. Raises TrainError, ModelError."""
    given = {"network": options.network, "size-px": options.size_px, "color": options.color, "step": options.step}
    if said := [name for name, value in given.items() if value]:
        raise TrainError(f"--{said[0]}: not with --from, whose model has its own")
    folder = options.start.with_suffix("") if options.start.suffix == ".keras" else options.start
    if not (folder / "manifest.yaml").is_file():
        folder = find_bundle(folder.parent, folder.name)
    manifest, keras_model = load_manifest(folder / "manifest.yaml"), folder.with_name(f"{folder.name}.keras")
    if manifest.task != "classify" or manifest.labels is None or isinstance(manifest.input, AudioInput):
        raise TrainError(f"{folder}: expected a model of this tool, which tells classes of pictures or windows apart")
    if not keras_model.is_file():
        raise TrainError(f"{keras_model} is not there: give --from the version whose .keras file tools/train.py kept")
    if _kind(manifest.input) != _kind(sets[0].series):
        raise TrainError(f"{sets[0].folder}: its samples are of another kind than those that {folder} takes")
    labels = load_labels(folder / manifest.labels)
    comment = f"{manifest.name} {manifest.version}, trained on by tools/train.py with {names}, seed {options.seed}."
    return Plan(sets, weights, labels, manifest.input, comment, keras_model)


def _kind(spec: Spec | None) -> object:
    """What has to be the same in two inputs so that a model can learn from both."""
    return (spec.channels, spec.samples, spec.rate_hz) if isinstance(spec, SeriesInput) else "pictures"


def gather(plan: Plan, split: str) -> dict[str, NDArray[Any]]:
    """Samples, labels and weights of a split of all data sets. Raises TrainError, ModelError, DataSetError."""
    parts = [(one, [entry for entry in one.entries if entry.split == split]) for one in plan.sets]
    return {
        split: np.concatenate([inputs(one, entries, plan.spec) for one, entries in parts if entries]),
        f"{split}_labels": np.concatenate([targets(entries, plan.labels) for _, entries in parts]),
        f"{split}_weights": np.repeat(
            np.array(plan.weights, np.float32), [len(entries) for _, entries in parts]
        ),
    }  # fmt: skip


def measured(plan: Plan) -> Plan:
    """With the numbers that windows are normalised by, from those that are learned; as it was if it has them.

    Raises:
        TrainError, ModelError, DataSetError
    """
    if plan.start is not None or not isinstance(plan.spec, SeriesInput):
        return plan
    mean, std = mean_and_std(gather(plan, "train")["train"])  # by 0 and 1 so far: as they are
    return plan._replace(spec=msgspec.structs.replace(plan.spec, mean=mean, std=std))
