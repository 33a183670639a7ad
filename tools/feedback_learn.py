"""Labelled samples to a better model, or to none: learn on, compare on old data and on new, push what is better.

samples with a label -> data set -> tools/train.py --from -> old and new on old data, old and new on new data -> push
"""

import argparse
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.cli.evaluate import follow
from agent.errors import DataSetError, ModelError
from agent.evaluation.evaluate import Labelled, evaluate
from agent.inference.locate import find_bundle
from agent.manifest import load_labels, load_manifest
from agent.runtime.files import write_atomic
from tools import push_model, train
from tools.build_zoo import ZooError
from tools.evaluate import EvaluateError
from tools.feedback_inbox import Inbox, Refused, Sample, share_of
from tools.picture_set import SERIES, Entry, PictureSet, digest, is_label, load_set, write_index
from tools.reference import write_reference
from tools.train_options import make_parser
from tools.training import TrainError

MIN_FAIR_TEST = 20
"""Samples to judge a model by; fewer say nothing."""
MIN_REFERENCE = 200
"""Held-out samples from which on they are the new reference for drift: with fewer, chance would look like drift."""
_ROUNDING = 1e-9  # of 0.94 - 0.92
VALIDATION, TEST = 0.2, 0.3
"""Shares of the fair samples."""


class Verdict(NamedTuple):
    """Accuracy of both models on both data sets."""

    old_on_old: float
    new_on_old: float
    old_on_new: float
    new_on_new: float
    new_samples: int
    """On which old and new were compared."""

    @property
    def gain(self) -> float:
        return self.new_on_new - self.old_on_new

    @property
    def loss(self) -> float:
        return self.old_on_old - self.new_on_old


def make_set(inbox: Inbox, labels: Sequence[str], series: bytes | None) -> PictureSet:
    """The data set of all samples with a label, in `data`; made anew.

    What was kept because it was hard says little of how a model does in general: only samples that were kept while
    frames drifted (any of them) are judged by, when there are enough; all others are learned from.

    Raises:
        DataSetError: there are too few.
        OSError: it can't be written.
    """
    labelled = [(sample, sample.info.truth) for sample in inbox.all() if sample.info.truth]
    unknown = sorted({truth for _, truth in labelled if truth not in labels})
    if unknown:
        raise DataSetError(
            f"{inbox.samples_dir}: the model has no class {unknown[0]!r}; it has {', '.join(labels)[:200]}. "
            "For a new class, train a model of all data anew: tools/train.py --data OLD NEW"
        )
    fair = {sample.name for sample, _ in labelled if "drift" in sample.info.reasons}
    if len(fair) * TEST < MIN_FAIR_TEST:
        fair = {sample.name for sample, _ in labelled}
    folder = inbox.folder / "data"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "pictures").mkdir(parents=True)
    entries = list(_copied(folder, labelled, fair))
    if sum(entry.split == "test" for entry in entries) < MIN_FAIR_TEST:
        shutil.rmtree(folder)
        raise DataSetError(
            f"{inbox.samples_dir}: {len(labelled)} samples have a label; label about 100, then try again"
        )
    if series is not None:
        write_atomic(folder / SERIES, series, mode=0o644)
    write_index(folder, entries)
    return load_set(folder)


def _copied(folder: Path, labelled: Sequence[tuple[Sample, str | None]], fair: set[str]) -> Iterator[Entry]:
    seen: set[str] = set()
    for sample, truth in labelled:
        data = sample.path.read_bytes()
        sha256 = digest(data)
        if truth is None or not is_label(truth) or sha256 in seen:  # the same pixels in two splits would flatter
            continue
        seen.add(sha256)
        share = share_of(sample.name) if sample.name in fair else 1.0
        split = "test" if share < TEST else "validation" if share < TEST + VALIDATION else "train"
        path = f"pictures/{sample.path.name}"
        write_atomic(folder / path, data, mode=0o644)
        yield Entry(path, truth, sample.name, split, sha256)


def next_version(folder: Path) -> str:
    """The name of the version after this one: 1 -> 1-f1 -> 1-f2."""
    base = folder.name.rpartition("-f")
    plain, number = (base[0], int(base[2])) if base[0] and base[2].isdigit() else (folder.name, 0)
    while (folder.parent / f"{plain}-f{number + 1}").exists():
        number += 1
    return f"{plain}-f{number + 1}"


def retrain(options: argparse.Namespace, old: Path, new_set: PictureSet, version: str, out: Path) -> Path:
    """Learn on from the old model, into a folder of its own. Raises what tools/train.py raises, RuntimeError."""
    share = sum(entry.split == "train" for entry in new_set.entries)
    whole = sum(entry.split == "train" for entry in load_set(options.data).entries)
    weight = options.weight or max(1.0, min(20.0, 0.5 * whole / max(1, share)))
    arguments = [
        "--data", str(options.data), str(new_set.folder), "--weights", "1", f"{weight:g}", "--from", str(old),
        "--name", old.parent.name, "--version", version, "--out", str(out), "--epochs", str(options.epochs),
        "--seed", str(options.seed), *options.train_option,
    ]  # fmt: skip
    train.make(make_parser(None).parse_args(arguments))
    return out / old.parent.name / version


def compare(old: Path, new: Path, old_data: Path, new_set: PictureSet) -> Verdict:
    """Both models on split `test` of both data sets. Raises ModelError, DataSetError, WorkerLost."""

    def accuracy(bundle: Path, data: Path) -> float:
        return float(evaluate(bundle, Labelled(data), follow=follow)["accuracy"])

    return Verdict(
        old_on_old=accuracy(old, old_data),
        new_on_old=accuracy(new, old_data),
        old_on_new=accuracy(old, new_set.folder),
        new_on_new=accuracy(new, new_set.folder),
        new_samples=len(new_set.of("test")),
    )


def judge(verdict: Verdict, min_gain: float, max_loss: float) -> None:
    """Raises Refused: it does not gain enough on new data, or loses too much on old."""
    if verdict.gain < min_gain - _ROUNDING:
        raise Refused(
            f"refused, nothing is pushed: on new data it gains {verdict.gain:+.4f}, at least {min_gain:g} is asked for"
        )
    if verdict.loss > max_loss + _ROUNDING:
        raise Refused(
            f"refused, nothing is pushed: on old data it loses {verdict.loss:.4f}, allowed are {max_loss:g}; "
            "a smaller --weight holds on to more"
        )


def table(verdict: Verdict) -> str:
    """For people."""
    return "\n".join(
        [
            f"{'accuracy':<24}{'old model':>12}{'new model':>12}{'change':>10}",
            f"{'old data, test':<24}{verdict.old_on_old:>12.4f}{verdict.new_on_old:>12.4f}{-verdict.loss:>+10.4f}",
            f"{f'new data, {verdict.new_samples} samples':<24}{verdict.old_on_new:>12.4f}{verdict.new_on_new:>12.4f}"
            f"{verdict.gain:>+10.4f}",
        ]
    )


def set_reference(new: Path, new_set: PictureSet, say: Callable[[str], object]) -> None:
    """Frames look like the new data now: devices should miss nothing else. Raises ModelError, DataSetError, OSError."""
    fair = [entry for entry in new_set.entries if entry.split != "train"]
    if len(fair) < MIN_REFERENCE:
        say(
            f"the reference for drift stays that of the old data: {len(fair)} new samples were held out, "
            f"{MIN_REFERENCE} are needed; the device will go on to tell of drift"
        )
        return
    held_out = [entry._replace(split="validation") for entry in fair]
    write_reference(new, PictureSet(new_set.folder, tuple(held_out), new_set.sha256, new_set.series))
    say(f"the reference for drift is now that of {len(fair)} new samples")


def learn(options: argparse.Namespace, say: Callable[[str], object]) -> int:
    """The command `learn`. Raises Refused, and what the tools that it calls raise."""
    old = options.model if (options.model / "manifest.yaml").is_file() else None
    old = old or find_bundle(options.model.parent, options.model.name)
    manifest = load_manifest(old / "manifest.yaml")
    version = options.version or next_version(old)
    target = old.parent / version
    if target.exists():
        raise ModelError(f"{target} is there already; choose another --version")
    labels = load_labels(old / (manifest.labels or "labels.txt"))
    series = options.data / SERIES
    new_set = make_set(Inbox(options.folder), labels, series.read_bytes() if series.is_file() else None)
    counts = Counter(entry.split for entry in new_set.entries)
    say(f"{len(new_set.entries)} labelled samples: {', '.join(f'{count} {split}' for split, count in counts.items())}")
    with tempfile.TemporaryDirectory(prefix="feedback-") as scratch:
        new = retrain(options, old, new_set, version, Path(scratch))
        verdict = compare(old, new, options.data, new_set)
        say(table(verdict))
        judge(verdict, options.min_gain, options.max_loss)
        set_reference(new, new_set, say)
        shutil.copytree(new, target)
        shutil.copyfile(new.with_name(f"{version}.keras"), target.with_name(f"{version}.keras"))
    write_atomic(target.parent / "current", f"{version}\n".encode(), mode=0o644)
    say(f"{target} is the current version")
    if options.report is not None:
        write_atomic(options.report, msgspec.json.encode(verdict._asdict()), mode=0o644)
    return push(target, options.push) if options.push else 0


def push(bundle: Path, arguments: Sequence[str]) -> int:
    """tools/push_model.py with these options; its exit code."""
    return push_model.main([str(bundle), *arguments])


def errors() -> tuple[type[Exception], ...]:
    """All that `learn` raises and a user can mend."""
    return (TrainError, ZooError, EvaluateError)
