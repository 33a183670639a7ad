"""Train a network that tells classes of pictures apart, and make a bundle of it, measured.

    python3 tools/train.py --data .cache/data/mnist --name digits --network cnn
    python3 tools/train.py --data .cache/data/parts --name parts --network cnn --size-px 64 --color rgb --epochs 30

Networks: `cnn` is Conv32-Pool-Conv64-Pool-Conv64-Dense64-Dense, `mlp` is Dense500-Dense. The network gets pictures as
the agent's own code prepares them. It learns split `train` of the data set; training ends early when it gets no better
on split `validation`, and the best epoch counts. Split `test` is looked at once, for the figures in the manifest.

TensorFlow only trains: from where this runs if it is there (`pip install 'edge-agent[train]'`), or from an environment
of its own (.venv-zoo: 2 GB, made on first use). The Keras model is kept beside the bundle, as `{name}/{version}.keras`,
for tools/optimize.py.
"""

import argparse
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from agent.errors import AgentError  # noqa: E402
from agent.inference.bundle import load_bundle  # noqa: E402
from agent.inference.golden import make_golden  # noqa: E402
from agent.inference.preprocess import Preprocess  # noqa: E402
from agent.manifest import InputSpec, Manifest, name_the_input  # noqa: E402
from agent.runtime.files import write_atomic  # noqa: E402
from agent.runtime.yamlfile import DocumentError, parse_document  # noqa: E402
from agent.values import TensorInfo  # noqa: E402
from tools.build_zoo import VENV, ZooError, make_venv  # noqa: E402
from tools.evaluate import EvaluateError, print_table, write_metrics  # noqa: E402
from tools.evaluate_classes import Report, evaluate_classes  # noqa: E402
from tools.picture_set import DataSetError, Entry, PictureSet, load_set  # noqa: E402

NETWORK = ROOT / "tools" / "class_network.py"
MAX_INPUT_BYTES = 4 << 30
"""What the pictures of a split may take as float32."""
GOLDEN_OF_A_CLASS, MOST_GOLDEN = 2, 40
LEARNING_RATES = {"adam": 1.5e-3, "sgd": 5e-2}

Pictures = NDArray[np.float32]


class TrainError(Exception):
    """One line: what is wrong, where, and how to mend it."""


# --- what the network gets


def inputs(pictures: PictureSet, entries: Sequence[Entry], spec: InputSpec) -> Pictures:
    """N x height x width x channels, as the agent prepares them for a float model.

    Raises:
        ModelError, DataSetError: a picture can't be used.
        TrainError: they do not fit in memory.
    """
    shape = (spec.height_px, spec.width_px, 1 if spec.color == "gray" else 3)
    if len(entries) * int(np.prod(shape)) * 4 > MAX_INPUT_BYTES:
        raise TrainError(f"{len(entries)} pictures of {shape} take over {MAX_INPUT_BYTES >> 30} GiB: lower --size-px")
    prepare = Preprocess(spec, TensorInfo("input", (1, *shape), "float32"))
    made, one = np.empty((len(entries), *shape), np.float32), np.empty((1, *shape), np.float32)
    for place, entry in enumerate(entries):
        prepare(pictures.picture(entry), one)
        made[place] = one[0]
    return made


def targets(entries: Sequence[Entry], labels: Sequence[str]) -> NDArray[np.int64]:
    """The number of each picture's class."""
    place = {label: number for number, label in enumerate(labels)}
    return np.array([place[one.label] for one in entries], np.int64)


# --- TensorFlow, in a process of its own


def run_network(arguments: Sequence[str]) -> None:
    """Run tools/class_network.py where TensorFlow is. Raises TrainError, ZooError."""
    python = sys.executable
    if importlib.util.find_spec("tensorflow") is None:
        make_venv()
        python = str(VENV / "bin" / "python")
    done = subprocess.run([python, str(NETWORK), *arguments], check=False)
    if done.returncode:
        raise TrainError(f"{NETWORK.name} failed with code {done.returncode}: see the lines above")


def train(options: argparse.Namespace, pictures: PictureSet, spec: InputSpec, keras_model: Path) -> None:
    """Raises TrainError, ZooError, ModelError, DataSetError."""
    learned, kept = pictures.of("train"), pictures.of("validation")
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        arrays = Path(scratch) / "pictures.npz"
        np.savez(
            arrays,
            train=inputs(pictures, learned, spec),
            validation=inputs(pictures, kept, spec),
            train_labels=targets(learned, pictures.labels),
            validation_labels=targets(kept, pictures.labels),
        )
        rate = options.learning_rate or LEARNING_RATES[options.optimizer]
        same = ("network", "optimizer", "epochs", "patience", "batch", "seed", "shift_px")
        run_network(
            [
                "train", str(arrays), str(keras_model), f"--classes={len(pictures.labels)}", f"--learning-rate={rate}",
                *(f"--{name.replace('_', '-')}={getattr(options, name)}" for name in same),
            ]
        )  # fmt: skip


# --- the bundle


def manifest_text(options: argparse.Namespace, classes: int) -> str:
    """The manifest, without metrics: those are tools/evaluate.py's to write."""
    size = f"width_px: {options.size_px}, height_px: {options.size_px}"
    return f"""\
# Network {options.network}, made by tools/train.py of {json.dumps(options.data.name)}, seed {options.seed}.
name: {options.name}
version: "{options.version}"
task: classify
input: {{{size}, color: {options.color}, resize: letterbox, mean: [0], std: [255]}}
decoder: {{type: classify, top_k: {min(3, classes)}}}
labels: labels.txt
golden: {{dir: golden, min_agreement: 0.99}}
limits: {{max_infer_ms: 100, max_memory_bytes: 300MiB}}
"""


def draft(options: argparse.Namespace, classes: int) -> InputSpec:
    """What these options say of the input. Raises TrainError."""
    try:
        spec = parse_document(manifest_text(options, classes).encode(), Manifest, "these options", name_the_input).input
    except DocumentError as exc:
        raise TrainError(str(exc).partition(": ")[2]) from exc  # without the line of a file that is not there yet
    assert isinstance(spec, InputSpec)  # noqa: S101 - it is written above
    return spec


def write_golden(folder: Path, pictures: PictureSet, entries: Sequence[Entry]) -> None:
    """A few pictures of each class with what the model says of them, as `edge-agent models golden` writes them."""
    chosen: list[Entry] = []
    for label in pictures.labels:
        chosen += [one for one in entries if one.label == label][:GOLDEN_OF_A_CLASS]
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        paths = []
        for number, entry in enumerate(chosen[:MOST_GOLDEN], start=1):
            paths.append(Path(scratch) / f"{number:02}.png")
            _, data = cv2.imencode(".png", pictures.picture(entry))
            paths[-1].write_bytes(data.tobytes())
        make_golden(folder, paths, load_bundle(folder).run)


def finish(folder: Path, pictures: PictureSet, target: Path) -> Report:
    """Golden pictures and metrics into a bundle that has all else; then it becomes `target`, and the current version.

    Returns its figures on split `test`.

    Raises:
        ModelError, DataSetError, EvaluateError, OSError
    """
    write_golden(folder, pictures, pictures.of("validation"))
    bundle = load_bundle(folder)
    about: Report = {"model": bundle.info.name, "version": bundle.info.version, "task": "classify"}
    report = about | evaluate_classes(bundle, folder, pictures, "test")
    write_metrics(folder, report, f"{pictures.folder.name}, split test, index {pictures.sha256[:16]}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(folder, target)
    write_atomic(target.parent / "current", f"{target.name}\n".encode(), mode=0o644)
    return report


def make(options: argparse.Namespace) -> Report:
    """From a data set to a bundle; returns its figures. What fails leaves nothing behind.

    Raises:
        TrainError, ZooError, DataSetError, EvaluateError, AgentError, OSError
    """
    pictures = load_set(options.data)
    spec = draft(options, len(pictures.labels))
    target: Path = options.out / options.name / options.version
    if target.exists() and not options.force:
        raise TrainError(f"{target} is there already: choose another --version, or --force")
    with tempfile.TemporaryDirectory(prefix="train-") as scratch:
        keras_model, converted = Path(scratch) / "model.keras", Path(scratch) / "float.tflite"
        train(options, pictures, spec, keras_model)
        run_network(["convert", str(keras_model), scratch, "float"])
        folder = Path(scratch) / options.version
        folder.mkdir()
        shutil.copyfile(converted, folder / "model.tflite")
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in pictures.labels), encoding="utf-8")
        (folder / "manifest.yaml").write_text(manifest_text(options, len(pictures.labels)), encoding="utf-8")
        target.parent.mkdir(parents=True, exist_ok=True)
        report = finish(folder, pictures, target)
        shutil.copyfile(keras_model, target.parent / f"{options.version}.keras")
    return report


# --- command line


def whole(text: str) -> int:
    """A whole number from 0 on, for argparse. Raises ValueError."""
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


def from_1(text: str) -> int:
    """A whole number from 1 on, for argparse. Raises ValueError."""
    if (number := whole(text)) == 0:
        raise ValueError(text)
    return number


def rate(text: str) -> float:
    """A number over 0 and up to 1, for argparse. Raises ValueError."""
    if not 0.0 < (number := float(text)) <= 1.0:
        raise ValueError(text)
    return number


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 there is a bundle, 1 something failed, 2 wrong arguments",
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="DIR", help="a data set, as tools/dataset.py makes them")
    add("--name", required=True, help="of the model")
    add("--version", default="1", help="(default: %(default)s)")
    add("--network", choices=("cnn", "mlp"), default="cnn", help="(default: %(default)s)")
    add("--size-px", type=from_1, default=28, help="width and height of the input (default: %(default)s)")
    add("--color", choices=("gray", "rgb"), default="gray", help="of the input (default: %(default)s)")
    add("--optimizer", choices=sorted(LEARNING_RATES), default="adam", help="(default: %(default)s)")
    add("--learning-rate", type=rate, metavar="RATE", help="at the start (default: adam 0.0015, sgd 0.05)")
    add("--epochs", type=from_1, default=7, help="at most (default: %(default)s)")
    add("--patience", type=from_1, default=3, help="epochs without getting better (default: %(default)s)")
    add("--batch", type=from_1, default=128, help="pictures of a step (default: %(default)s)")
    add("--shift-px", type=whole, default=0, help="pictures are moved by up to so much (default: %(default)s)")
    add("--seed", type=whole, default=1, help="same seed, same machine, same model (default: %(default)s)")
    add("--out", type=Path, default=ROOT / "models", metavar="DIR", help="models folder (default: %(default)s)")
    add("--force", action="store_true", help="write over a version that is there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        report = make(options)
    except (TrainError, ZooError, DataSetError, EvaluateError, AgentError, OSError) as exc:
        print(f"train: {exc}", file=sys.stderr)
        return 1
    print_table(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
