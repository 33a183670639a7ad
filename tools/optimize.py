"""Make a model smaller and faster, and take the result only if it stays within a budget of accuracy.

    python3 tools/optimize.py models/digits/1 --data .cache/data/mnist --max-f1-drop 0.003 --max-class-drop 0.01
    python3 tools/optimize.py models/digits/1 --data .cache/data/mnist --only fp16 dynamic int8 --plot pareto.png

Makes candidates of the Keras model that tools/train.py has kept beside the bundle. A candidate is called after how it
was trained on, if it was, and its format. Formats: `float`; `fp16` (weights); `dynamic` (int8 weights); `int8` (input
and output too; the range of each activation is taken from samples of split `train`). Trainings, on split `train`:
`qat`, quantisation-aware; `sparse`, half of the weights are 0; `clustered`, a layer's weights have 16 values;
`channels`, half of the channels of each layer, taught by the whole network. Those without a training take seconds.

Each candidate is run as the agent runs it, on split `validation`: F1, also of each class, and the time of an inference
as a ratio to the float model's. They take turns, so that a busy machine does little harm. Another kind of processor has
other ratios: run it on one like the device's. `zipped` is the size when it is compressed: a TFLite file holds every
weight, so fewer values do not make it smaller, nor faster.

A candidate is over the budget when its F1 (macro) falls by more than --max-f1-drop, or that of one class by more than
--max-class-drop. Of those within, that with the least size ratio times time ratio is taken, if this is under 1. It must
stay within the budget on split `test` too. Then it becomes version `{version}-{candidate}`, with golden samples and
metrics of its own, and as many `threads` as pay on this machine. Otherwise nothing is written, and the exit code is 3.
"""

import argparse
import functools
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from agent.cli.common import ProgressLine  # noqa: E402
from agent.cli.evaluate import follow  # noqa: E402
from agent.errors import AgentError, DataSetError, ModelError  # noqa: E402
from agent.evaluation.classes import class_labels, judge_classes  # noqa: E402
from agent.evaluation.common import thin  # noqa: E402
from agent.evaluation.picture_set import PictureSet, load_set  # noqa: E402
from agent.inference.bundle import load_bundle  # noqa: E402
from agent.inference.locate import find_bundle  # noqa: E402
from agent.manifest import InputSpec, Manifest, SeriesInput, load_manifest  # noqa: E402
from tools.budget import Budget, Candidate, Refused, choose, loss, over_budget  # noqa: E402
from tools.build_zoo import ZooError  # noqa: E402
from tools.evaluate import EvaluateError, print_table  # noqa: E402
from tools.optimize_bundle import WHOLE, candidate_folder, with_key  # noqa: E402
from tools.optimize_network import CALIBRATION_SAMPLES, LADDER  # noqa: E402
from tools.optimize_view import candidate_table, draw_candidates, parallel_table  # noqa: E402
from tools.timing import Parallel, infer_ms, measure_parallel, take_turns  # noqa: E402
from tools.train import finish  # noqa: E402
from tools.train_options import add_augmentation, from_1, whole  # noqa: E402
from tools.training import TrainError, augment_flags, inputs, run_network, targets  # noqa: E402

NETWORK = ROOT / "tools" / "optimize_network.py"
TIMED_SAMPLES = 100
ZIP_LEVEL = 9


# --- candidates


def make_candidates(
    keras_model: Path, manifest: Manifest, pictures: PictureSet, labels: Sequence[str], options: argparse.Namespace,
    folder: Path,
) -> list[Path]:  # fmt: skip
    """Write `folder/{name}.tflite` for each name of `--only`; gives those that this model allows.

    Raises:
        TrainError, ZooError, ModelError, DataSetError
    """
    if not keras_model.is_file():
        raise TrainError(f"{keras_model} is not there: tools/train.py keeps it; or --only with nothing behind it")
    spec, learned = manifest.input, pictures.of("train")
    assert isinstance(spec, InputSpec | SeriesInput)  # noqa: S101 - looked at before
    if not any("-" in name for name in options.only):  # nothing is trained
        learned = thin(learned, CALIBRATION_SAMPLES)
    arrays = folder / "samples.npz"
    np.savez(
        arrays,
        train=inputs(pictures, learned, spec),
        train_labels=targets(learned, labels),
        train_weights=np.ones(len(learned), np.float32),
    )
    flags = [f"--batch={options.batch}", f"--seed={options.seed}", *augment_flags(options, spec)]
    run_network([str(arrays), str(keras_model), str(folder), *options.only, *flags], NETWORK)
    arrays.unlink()
    models = [folder / f"{name}.tflite" for name in options.only]
    return [model for model in models if model.is_file()]


def measure(folders: dict[str, Path], pictures: PictureSet, labels: Sequence[str]) -> list[Candidate]:
    """All of them, the float model first. Raises ModelError, DataSetError, OSError."""
    entries = pictures.of("validation")
    bundles = [load_bundle(folder) for folder in folders.values()]
    samples = [pictures.sample(entry) for entry in thin(entries, TIMED_SAMPLES)]
    times = take_turns([functools.partial(infer_ms, bundle, samples) for bundle in bundles])
    found = []
    with ProgressLine("candidates measured", len(folders)) as progress:
        for (name, folder), bundle, time in zip(folders.items(), bundles, times, strict=True):
            confusion = judge_classes(bundle, labels, pictures, entries).confusion
            model = (folder / "model.tflite").read_bytes()
            zipped = len(zlib.compress(model, ZIP_LEVEL))
            found.append(Candidate(name, folder, len(model), zipped, time.ms, time.ratio, confusion))
            progress.add()
    return found


def confirm(folder: Path, best: Candidate, pictures: PictureSet, labels: Sequence[str], budget: Budget) -> None:
    """What was chosen on one split must hold on another. Raises Refused, ModelError, DataSetError."""
    entries = pictures.of("test")
    before, after = (
        judge_classes(load_bundle(one), labels, pictures, entries, follow).confusion for one in (folder, best.folder)
    )
    if reason := over_budget(loss(before, after, labels), budget):
        raise Refused(f"{best.name}: on split test, {reason}")


# --- from a bundle to a better one


def optimize(folder: Path, options: argparse.Namespace) -> Path:
    """Returns the folder of the new version.

    Raises:
        Refused: nothing is good enough.
        TrainError, ZooError, DataSetError, EvaluateError, AgentError, OSError
    """
    manifest, pictures = load_manifest(folder / "manifest.yaml"), load_set(options.data)
    check_kind(folder, manifest)
    labels = class_labels(folder, manifest)
    budget = Budget(options.max_f1_drop, options.max_class_drop)
    with tempfile.TemporaryDirectory(prefix="optimize-") as scratch:
        place, models = Path(scratch), list(options.candidate)
        if options.only:
            keras_model = options.keras or folder.with_name(f"{folder.name}.keras")
            models = make_candidates(keras_model, manifest, pictures, labels, options, place) + models
        if not models:
            raise TrainError("there is no candidate: choose others with --only, or give --candidate")
        folders = {model.stem: candidate_folder(folder, manifest.labels or "", model, place) for model in models}
        candidates = measure({WHOLE: folder, **folders}, pictures, labels)
        print("", *candidate_table(candidates, labels, budget), "", sep="\n")
        if options.plot is not None:
            draw_candidates(options.plot, candidates, labels, budget)
        best = choose(candidates[0], candidates[1:], labels, budget)
        confirm(folder, best, pictures, labels, budget)
        target = folder.with_name(best.folder.name)
        if target.exists() and not options.force:
            raise TrainError(f"{target} is there already: --force writes over it")
        found = recommend_threads(best.folder, pictures)
        speedup = {"threads_speedup": round(found.speedup(found.threads), 2)}
        report = finish(best.folder, pictures, target, speedup)
    print(f"{best.name} is version {target.name}")
    print_table(report)
    return target


def check_kind(folder: Path, manifest: Manifest) -> None:
    """Raises ModelError: this tool can't measure such a model, or not change it."""
    if manifest.task != "classify" or not isinstance(manifest.input, InputSpec | SeriesInput):
        raise ModelError(f"{folder}: expected a model that tells classes of pictures or windows apart")
    if manifest.head is not None:
        raise ModelError(f"{folder}: its head was made for this very model: optimise the version without it")


def recommend_threads(folder: Path, pictures: PictureSet) -> Parallel:
    """Write into the manifest how many threads pay, and say what was measured.

    Raises:
        ModelError, DataSetError, OSError
    """
    samples = [pictures.sample(entry) for entry in thin(pictures.of("validation"), TIMED_SAMPLES)]
    found = measure_parallel(folder, samples)
    print(*parallel_table(found), "", sep="\n")
    path = folder / "manifest.yaml"
    path.write_text(with_key(path.read_text(encoding="utf-8"), "threads", str(found.threads)), encoding="utf-8")
    return found


# --- command line


def drop(text: str) -> float:
    """From 0 to 1, for argparse. Raises ValueError."""
    if not 0.0 <= (number := float(text)) <= 1.0:
        raise ValueError(text)
    return number


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 there is a better version, 1 something failed, 2 wrong arguments, 3 refused",
    )
    add = parser.add_argument
    add("bundle", type=Path, help="a float bundle's folder, or that of a model: its current version")
    add("--data", type=Path, required=True, metavar="DIR", help="the data set that it was trained on")
    add(
        "--only", nargs="*", choices=LADDER, default=LADDER, metavar="NAME",
        help=f"which candidates are made (default: all): {', '.join(LADDER)}",
    )  # fmt: skip
    add(
        "--candidate", type=Path, nargs="*", default=[], metavar="FILE.tflite",
        help="made by other means; tried as well",
    )  # fmt: skip
    add("--keras", type=Path, metavar="FILE.keras", help="(default: that which tools/train.py has kept)")
    add("--max-f1-drop", type=drop, default=0.003, help="of the mean over the classes (default: %(default)s)")
    add("--max-class-drop", type=drop, default=0.01, help="of any class (default: %(default)s)")
    add("--plot", type=Path, metavar="FILE.png", help="draw F1 over size, and over time")
    add("--force", action="store_true", help="write over a version that is there")
    add("--batch", type=from_1, default=128, help="samples of a step in training (default: %(default)s)")
    add("--seed", type=whole, default=1, help="same seed, same machine, same models (default: %(default)s)")
    add_augmentation(parser.add_argument_group("augmentation: as in training"))
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    folder: Path = options.bundle
    try:
        if not (folder / "manifest.yaml").is_file():
            folder = find_bundle(folder.parent, folder.name)
        optimize(folder, options)
    except Refused as exc:
        print("optimize: refused, nothing is written", *str(exc).splitlines(), sep="\n  ", file=sys.stderr)
        return 3
    except (TrainError, ZooError, DataSetError, EvaluateError, AgentError, OSError) as exc:
        print(f"optimize: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
