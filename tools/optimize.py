"""Make a model smaller and faster, and take the result only if it stays within a budget of accuracy.

    python3 tools/optimize.py models/digits/1 --data .cache/data/mnist --max-f1-drop 0.003 --max-class-drop 0.01

Converts the Keras model that tools/train.py has kept beside the bundle to `fp16` (weights), `dynamic` (int8 weights)
and `int8` (input and output too; the range of each activation is taken from pictures of split `train`). Each is run as
the agent runs it, on split `validation`: F1, also of each class, and the time of an inference as a ratio to the float
model's. They take turns, so that a busy machine does little harm. Another kind of processor has other ratios: run it on
one like the device's.

A candidate is over the budget when its F1 (macro) falls by more than --max-f1-drop, or that of one class by more than
--max-class-drop. Of those within, that with the least size ratio times time ratio is taken, if this is under 1. It must
stay within the budget on split `test` too. Then it becomes version `{version}-{candidate}`, with golden pictures and
metrics of its own. Otherwise nothing is written, and the exit code is 3.
"""

import argparse
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from agent.errors import AgentError, ModelError  # noqa: E402
from agent.inference.bundle import Bundle, load_bundle  # noqa: E402
from agent.inference.locate import find_bundle  # noqa: E402
from agent.manifest import InputSpec  # noqa: E402
from tools.budget import Budget, Candidate, Refused, choose, loss, on_front, over_budget  # noqa: E402
from tools.build_zoo import ZooError  # noqa: E402
from tools.evaluate import EvaluateError, print_table  # noqa: E402
from tools.evaluate_classes import class_labels, judge_classes  # noqa: E402
from tools.picture_set import DataSetError, Entry, PictureSet, load_set  # noqa: E402
from tools.train import TrainError, finish, inputs, run_network  # noqa: E402

WHOLE = "float"
"""What the model is called that the others are compared with."""
VARIANTS = ("fp16", "dynamic", "int8")
CALIBRATION_PICTURES = 500
ROUNDS, PICTURES_A_ROUND = 20, 100
"""In each round every model runs on the same pictures; the first round warms up and does not count."""


# --- what is measured


def time_in_turns(
    bundles: Sequence[Bundle], pictures: PictureSet, entries: Sequence[Entry]
) -> list[tuple[float, float]]:
    """Of each: the median of an inference, in ms, and its ratio to that of the first, the median over the rounds."""
    images = [pictures.picture(entry) for entry in entries[:PICTURES_A_ROUND]]
    rounds = [
        [float(np.median([bundle.run(image, 0.0).infer_ms for image in images])) for bundle in bundles]
        for _ in range(ROUNDS + 1)
    ]
    medians = np.maximum(np.array(rounds[1:]), 1e-3)  # ms come rounded to a microsecond
    ratios = np.median(medians / medians[:, :1], axis=0)
    return list(zip(np.median(medians, axis=0).tolist(), ratios.tolist(), strict=True))


def measure(folders: dict[str, Path], pictures: PictureSet, labels: Sequence[str]) -> list[Candidate]:
    """All of them, the float model first. Raises ModelError, DataSetError."""
    entries = pictures.of("validation")
    bundles = [load_bundle(folder) for folder in folders.values()]
    times = time_in_turns(bundles, pictures, entries)
    found = []
    for (name, folder), bundle, (infer_ms, ratio) in zip(folders.items(), bundles, times, strict=True):
        print(f"{name}: {len(entries)} pictures …", flush=True)
        confusion = judge_classes(bundle, labels, pictures, entries).confusion
        size_bytes = (folder / "model.tflite").stat().st_size
        found.append(Candidate(name, folder, size_bytes, infer_ms, ratio, confusion))
    return found


def print_candidates(candidates: Sequence[Candidate], labels: Sequence[str], budget: Budget) -> None:
    """The Pareto table; `*`: no other is better in all."""
    whole = candidates[0]
    print(f"\n{'':10} {'bytes':>9} {'size':>5} {'ms':>7} {'time':>5} {'F1':>7} {'loss':>8}  class that loses most")
    for one in candidates:
        found = loss(whole.confusion, one.confusion, labels)
        reason = over_budget(found, budget)
        figures = f"{one.size_bytes:9d} {one.size_bytes / whole.size_bytes:5.2f} {one.infer_ms:7.3f}"
        quality = f"{one.time_ratio:5.2f} {one.confusion.macro[2]:7.4f} {found.f1:8.4f}"
        worst = f"{found.label}: {found.one_class:.4f}" if found.one_class > 0 else ""
        mark = "*" if on_front(one, candidates) else " "
        print(f"{mark}{one.name:9} {figures} {quality}  {worst}{'  over the budget' if reason else ''}")
    print()


# --- from a bundle to a better one


def convert(keras_model: Path, variants: Sequence[str], spec: InputSpec, pictures: PictureSet, folder: Path) -> None:
    """Write `folder/{variant}.tflite`. Raises TrainError, ZooError, ModelError, DataSetError."""
    if not keras_model.is_file():
        raise TrainError(f"{keras_model} is not there: tools/train.py keeps it; or --variants with nothing behind it")
    learned = pictures.of("train")
    entries = learned[:: max(1, len(learned) // CALIBRATION_PICTURES)][:CALIBRATION_PICTURES]
    arrays = folder / "calibration.npz"
    np.savez(arrays, train=inputs(pictures, entries, spec))
    run_network(["convert", str(keras_model), str(folder), *variants, f"--calibration={arrays}"])


def candidate_folder(whole: Path, model: Path, scratch: Path) -> Path:
    """A bundle with another model: manifest without metrics, labels; golden pictures come later.

    Raises:
        TrainError: there is one of this name.
        OSError
    """
    folder = scratch / f"{whole.name}-{model.stem}"
    if model.stem == WHOLE or folder.exists():
        raise TrainError(f"{model}: another candidate has this name: rename the file")
    folder.mkdir()
    shutil.copyfile(model, folder / "model.tflite")
    shutil.copyfile(whole / "labels.txt", folder / "labels.txt")
    text = (whole / "manifest.yaml").read_text(encoding="utf-8")
    text = re.sub(r"^metrics:.*\n(?:[ \t]+.*\n)*", "", text, flags=re.MULTILINE)
    text = re.sub(r"^version:.*$", f'version: "{folder.name}"', text, flags=re.MULTILINE)
    if not re.search(r"^golden:", text, re.MULTILINE):
        text = f"{text.rstrip()}\ngolden: {{dir: golden, min_agreement: 0.99}}\n"
    (folder / "manifest.yaml").write_text(text, encoding="utf-8")
    return folder


def optimize(folder: Path, options: argparse.Namespace) -> Path:
    """Returns the folder of the new version.

    Raises:
        Refused: nothing is good enough.
        TrainError, ZooError, DataSetError, EvaluateError, AgentError, OSError
    """
    whole, pictures = load_bundle(folder), load_set(options.data)
    spec, labels = whole.manifest.input, class_labels(whole, folder)
    if whole.manifest.task != "classify" or not isinstance(spec, InputSpec):
        raise ModelError(f"{folder}: expected a model that tells classes of pictures apart")
    budget = Budget(options.max_f1_drop, options.max_class_drop)
    with tempfile.TemporaryDirectory(prefix="optimize-") as scratch:
        place = Path(scratch)
        if options.variants:
            convert(options.keras or folder.parent / f"{folder.name}.keras", options.variants, spec, pictures, place)
        models = [place / f"{name}.tflite" for name in options.variants] + options.candidate
        folders = {model.stem: candidate_folder(folder, model, place) for model in models}
        candidates = measure({WHOLE: folder, **folders}, pictures, labels)
        print_candidates(candidates, labels, budget)
        best = choose(candidates[0], candidates[1:], labels, budget)
        confirm(whole, best, pictures, labels, budget)
        target = folder.parent / best.folder.name
        if target.exists() and not options.force:
            raise TrainError(f"{target} is there already: --force writes over it")
        report = finish(best.folder, pictures, target)
    print(f"{best.name} is version {target.name}")
    print_table(report)
    return target


def confirm(whole: Bundle, best: Candidate, pictures: PictureSet, labels: Sequence[str], budget: Budget) -> None:
    """What was chosen on one split must hold on another. Raises Refused, ModelError, DataSetError."""
    entries = pictures.of("test")
    before = judge_classes(whole, labels, pictures, entries).confusion
    after = judge_classes(load_bundle(best.folder), labels, pictures, entries).confusion
    if reason := over_budget(loss(before, after, labels), budget):
        raise Refused(f"{best.name}: on split test, {reason}")


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
    add("--variants", nargs="*", choices=VARIANTS, default=VARIANTS, help="(default: all)")
    add(
        "--candidate",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE.tflite",
        help="made by other means; tried as well",
    )
    add("--keras", type=Path, metavar="FILE.keras", help="(default: that which tools/train.py has kept)")
    add("--max-f1-drop", type=drop, default=0.003, help="of the mean over the classes (default: %(default)s)")
    add("--max-class-drop", type=drop, default=0.01, help="of any class (default: %(default)s)")
    add("--force", action="store_true", help="write over a version that is there")
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
