"""Train a network that tells classes apart, of pictures or of windows of sensor values, and make a bundle of it.

    python3 tools/train.py --data .cache/data/mnist --name digits --network cnn
    python3 tools/train.py --data .cache/data/parts --name parts --network transfer --epochs 20
    python3 tools/train.py --data .cache/data/watch --name arm --network gru --epochs 30
    python3 tools/train.py --data old_parts new_parts --weights 1 5 --from models/parts/1 --name parts --version 2

The network gets samples as the agent's own code prepares them. It learns split `train` of the data sets; training ends
early when it gets no better on split `validation`, and the best epoch counts. Split `test` of the first data set is
looked at once, for the figures in the manifest.

TensorFlow only trains: from where this runs if it is there (`pip install 'edge-agent[train]'`), or from an environment
of its own (.venv-zoo: 2 GB, made on first use). The Keras model is kept beside the bundle, as `{name}/{version}.keras`,
for tools/optimize.py and for --from.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from agent.cli.evaluate import follow  # noqa: E402
from agent.errors import AgentError  # noqa: E402
from agent.evaluation.common import Report  # noqa: E402
from agent.evaluation.evaluate import Labelled, evaluate  # noqa: E402
from agent.inference.bundle import load_bundle  # noqa: E402
from agent.inference.golden import make_golden  # noqa: E402
from agent.runtime.files import write_atomic  # noqa: E402
from agent.runtime.yamlfile import DocumentError  # noqa: E402
from tools.build_zoo import ZooError  # noqa: E402
from tools.embedding import embedding_of  # noqa: E402
from tools.evaluate import EvaluateError, print_table, write_metrics  # noqa: E402
from tools.picture_set import SPLITS, Entry, PictureSet  # noqa: E402
from tools.reference import write_reference  # noqa: E402
from tools.train_manifest import checked, manifest_text  # noqa: E402
from tools.train_options import make_parser  # noqa: E402
from tools.train_plan import Plan, gather, make_plan, measured  # noqa: E402
from tools.training import TrainError, augment_flags, run_network, want_tensorboard  # noqa: E402

GOLDEN_OF_A_CLASS, MOST_GOLDEN = 2, 40
LEARNING_RATES = {"adam": 1.5e-3, "sgd": 5e-2}
GOING_ON = 0.1
"""Share of the learning rate for a model that has learned already."""


# --- training


def train(options: argparse.Namespace, plan: Plan, keras_model: Path) -> None:
    """Raises TrainError, ZooError, ModelError, DataSetError."""
    rate = options.learning_rate or LEARNING_RATES[options.optimizer] * (GOING_ON if plan.start else 1.0)
    same = ("optimizer", "epochs", "patience", "batch", "seed")
    paths = {"start": plan.start, "tensorboard": options.tensorboard}
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        arrays = Path(scratch) / "samples.npz"
        np.savez(arrays, allow_pickle=False, **gather(plan, "train"), **gather(plan, "validation"))
        run_network(
            [
                "train", str(arrays), str(keras_model), f"--network={options.network or 'cnn'}",
                f"--classes={len(plan.labels)}", f"--learning-rate={rate}", *augment_flags(options, plan.spec),
                *(f"--{name.replace('_', '-')}={getattr(options, name)}" for name in same),
                *(["--fine-tune"] if options.fine_tune else []),
                *(f"--{name}={path}" for name, path in paths.items() if path is not None),
            ]
        )  # fmt: skip


# --- the bundle


def write_golden(folder: Path, pictures: PictureSet, entries: Sequence[Entry]) -> None:
    """A few samples of each class with what the model says of them, as `edge-agent models golden` writes them."""
    chosen: list[Entry] = []
    for label in pictures.labels:
        chosen += [one for one in entries if one.label == label][:GOLDEN_OF_A_CLASS]
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        paths = []
        for number, entry in enumerate(chosen[:MOST_GOLDEN], start=1):
            if pictures.series is not None:
                paths.append(Path(scratch) / f"{number:02}.npy")
                np.save(paths[-1], pictures.sample(entry))
            else:
                paths.append(Path(scratch) / f"{number:02}.png")
                _, data = cv2.imencode(".png", pictures.picture(entry))
                paths[-1].write_bytes(data.tobytes())
        make_golden(folder, paths, load_bundle(folder).run)


def finish(folder: Path, pictures: PictureSet, target: Path, more: Report | None = None) -> Report:
    """Golden samples, reference and metrics into a bundle that has all else; it becomes `target`, the current version.

    Returns its figures on split `test`, with what else was measured (`more`).

    Raises:
        ModelError, DataSetError, EvaluateError, OSError
    """
    write_golden(folder, pictures, pictures.of("validation"))
    write_reference(folder, pictures)
    report = evaluate(folder, Labelled(pictures.folder), follow=follow) | (more or {})
    write_metrics(folder, report, f"{pictures.folder.name}, split test, index {pictures.sha256[:16]}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    write_atomic(target.parent / "current", f"{target.name}\n".encode(), mode=0o644)
    return report


def draft(options: argparse.Namespace, plan: Plan, embedding: str | None = None) -> str:
    """The manifest's text. Raises TrainError: it would be none, with these options."""
    text = manifest_text(
        name=options.name,
        version=options.version,
        comment=plan.comment,
        spec=plan.spec,
        classes=len(plan.labels),
        embedding=embedding,
    )
    try:
        checked(text)
    except DocumentError as exc:
        raise TrainError(str(exc).partition(": ")[2]) from exc  # without the line of a file that is not there yet
    return text


def make(options: argparse.Namespace) -> Report:
    """From data sets to a bundle; returns its figures. What fails leaves nothing behind.

    Raises:
        TrainError, ZooError, DataSetError, EvaluateError, AgentError, OSError
    """
    plan = make_plan(options)
    draft(options, plan)
    target: Path = options.out / options.name / options.version
    if target.exists() and not options.force:
        raise TrainError(f"{target} is there already: choose another --version, or --force")
    for split in SPLITS:
        plan.sets[0].of(split)
    if options.tensorboard is not None:
        want_tensorboard()
    plan = measured(plan)
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        keras_model, converted = Path(scratch) / "model.keras", Path(scratch) / "float.tflite"
        train(options, plan, keras_model)
        run_network(["convert", str(keras_model), scratch, "float"])
        folder = Path(scratch) / options.version
        folder.mkdir()
        shutil.copyfile(converted, folder / "model.tflite")
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in plan.labels), encoding="utf-8")
        (folder / "manifest.yaml").write_text(draft(options, plan, embedding_of(converted)), encoding="utf-8")
        target.parent.mkdir(parents=True, exist_ok=True)
        report = finish(folder, plan.sets[0], target)
        shutil.copyfile(keras_model, target.parent / f"{options.version}.keras")
    return report


# --- command line


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = make_parser(__doc__).parse_args(arguments)
    try:
        report = make(options)
    except (TrainError, ZooError, EvaluateError, AgentError, OSError) as exc:
        print(f"train: {exc}", file=sys.stderr)
        return 1
    print_table(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
