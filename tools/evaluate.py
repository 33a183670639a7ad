"""Measure a model on labelled data, exactly as the agent runs it: its windows, its preprocessing, its decoder.

    python3 tools/evaluate.py models/swing/2026.11.1 --data agent/demo/swing.csv --rate-hz 50 --label-column is_anomaly
    python3 tools/evaluate.py models/digits --data .cache/data/mnist --plot confusion.png

Of an anomaly model: a row is labelled an anomaly when the label column holds a number other than 0; a window is
labelled an anomaly when one row or more of it is. Precision, recall and F1 count windows, as scikit-learn defines them.
An anomaly of the recording is a stretch of labelled windows; it is found when the model says so in one of them. A false
alarm is a stretch of windows that the model calls an anomaly and none of which is labelled so.

Of a model that tells classes apart: the data are a data set (tools/dataset.py), of which one split counts. The answer
is the class with the highest confidence. Accuracy, precision, recall and F1 are scikit-learn's, each class against all
others; without a class's name they are the mean over the classes (macro).
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from msgspec import UNSET  # noqa: E402

from agent.errors import AgentError  # noqa: E402
from agent.inference.bundle import Bundle, load_bundle  # noqa: E402
from agent.inference.locate import find_bundle  # noqa: E402
from agent.manifest import load_manifest  # noqa: E402
from agent.runtime.files import write_atomic  # noqa: E402
from agent.values import Anomaly  # noqa: E402
from tools.evaluate_classes import class_table, confusion_table, draw_confusion, evaluate_classes  # noqa: E402
from tools.labelled import LabelledWindow, add_table_options, csv_source, read_series  # noqa: E402
from tools.measures import count, runs, touched  # noqa: E402
from tools.picture_set import SPLITS, DataSetError, load_set  # noqa: E402

Report = dict[str, Any]
"""Names and figures, in the order of the table; lists are tables of their own."""

IN_MANIFEST: Mapping[str, tuple[str, ...]] = {
    "anomaly": ("f1", "precision", "recall", "windows", "anomalies", "anomalies_found", "false_alarms_per_hour"),
    "classify": ("accuracy", "f1", "precision", "recall", "worst_class", "worst_f1", "pictures"),
}
"""What `--write-metrics` writes down, for each task."""


class EvaluateError(Exception):
    """One line: what is wrong, where, and how to mend it."""


# --- anomalies


def judge(bundle: Bundle, windows: Sequence[LabelledWindow]) -> list[Anomaly]:
    """What an anomaly model says of each window. Raises ModelError."""
    answers = [bundle.run(one.samples, 0.0).found.anomaly for one in windows]
    return [answer for answer in answers if answer is not UNSET]


def evaluate_anomaly(bundle: Bundle, folder: Path, options: argparse.Namespace) -> Report:  # noqa: ARG001
    """Raises SourceError, ModelError; EvaluateError: there is nothing to compare."""
    window = bundle.info.window
    if window is None or options.label_column is None:
        raise EvaluateError("an anomaly model is measured on labelled readings: name the labels with --label-column")
    source = csv_source(options.data, options, window.rate_hz)
    series = read_series(source, window, options.label_column)
    if not series.windows:
        raise EvaluateError(f"{options.data}: not one whole window of {window.samples} samples in it")
    labels = [one.is_anomaly for one in series.windows]
    answers = [answer.is_anomaly for answer in judge(bundle, series.windows)]
    counts, anomalies, alarms = count(answers, labels), runs(labels), runs(answers)
    recorded_s = series.windows[-1].end_s
    false_alarms = len(alarms) - touched(alarms, labels)
    return {
        "windows": len(labels),
        "windows_labelled": sum(labels),
        "windows_left_out": series.left_out,
        "rows_broken": series.broken_rows,
        "recorded_s": round(recorded_s, 2),
        "true_positives": counts.true_positives,
        "false_positives": counts.false_positives,
        "false_negatives": counts.false_negatives,
        "true_negatives": counts.true_negatives,
        "precision": round(counts.precision, 4),
        "recall": round(counts.recall, 4),
        "f1": round(counts.f1, 4),
        "anomalies": len(anomalies),
        "anomalies_found": touched(anomalies, answers),
        "false_alarms": false_alarms,
        "false_alarms_per_hour": round(false_alarms * 3600 / recorded_s, 2) if recorded_s else 0.0,
    }


# --- classes


def evaluate_classify(bundle: Bundle, folder: Path, options: argparse.Namespace) -> Report:
    """Raises DataSetError, ModelError, OSError."""
    return evaluate_classes(bundle, folder, load_set(options.data), options.split)


TASKS: Mapping[str, Callable[[Bundle, Path, argparse.Namespace], Report]] = {
    "anomaly": evaluate_anomaly,
    "classify": evaluate_classify,
}
"""How a model is measured, by its task."""


def evaluate(folder: Path, options: argparse.Namespace) -> Report:
    """Measure a bundle. Raises EvaluateError, DataSetError, AgentError, OSError."""
    bundle = load_bundle(folder)
    measure = TASKS.get(bundle.manifest.task)
    if measure is None:
        raise EvaluateError(f"{folder}: no measure for task {bundle.manifest.task}; there are {', '.join(TASKS)}")
    info = bundle.info
    about: Report = {"model": info.name, "version": info.version, "sha256": info.sha256, "runtime": info.runtime}
    return {**about, "task": info.task, "data": options.data.name, **measure(bundle, folder, options)}


# --- what is said, and what is written


def print_table(report: Report) -> None:
    """A line for each figure; of classes also a table, and which was taken for which."""
    figures = {name: value for name, value in report.items() if not isinstance(value, list)}
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name.replace('_', ' '):{width}}  {value}")
    if "confusion" in report:
        print("", *class_table(report["classes"]), sep="\n")
        print("\nlabels down, answers across", *confusion_table(report["confusion"], report["labels"]), sep="\n")


def draw(path: Path, report: Report) -> None:
    """Which class was taken for which, as PNG. Raises EvaluateError: the report has none; DataSetError, OSError."""
    if "confusion" not in report:
        raise EvaluateError(f"--plot: there is nothing to draw for task {report['task']}")
    draw_confusion(path, report["confusion"], report["labels"])


def write_metrics(folder: Path, report: Report, dataset: str) -> None:
    """Put the figures into the manifest; its other lines stay as they are.

    Raises:
        EvaluateError, ModelError: what comes out is no manifest with these figures; nothing is written.
        OSError: it can't be read or written.
    """
    figures: Report = {name: report[name] for name in IN_MANIFEST[str(report["task"])]} | {"dataset": dataset}
    pairs = ", ".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in figures.items())
    path = folder / "manifest.yaml"
    before = re.sub(r"^metrics:.*\n(?:[ \t]+.*\n)*", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    data = f"{before.rstrip()}\nmetrics: {{{pairs}}}\n".encode()
    with tempfile.TemporaryDirectory(prefix="evaluate-") as scratch:
        trial = Path(scratch) / "manifest.yaml"
        trial.write_bytes(data)
        if load_manifest(trial).metrics != figures:
            raise EvaluateError(f"{path}: metrics can't be written into it; take out those there, then try again")
    write_atomic(path, data, mode=0o644)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 measured, 1 something failed, 2 wrong arguments",
    )
    parser.add_argument("bundle", type=Path, help="a bundle's folder, or that of a model: its current version")
    parser.add_argument(
        "--data", type=Path, required=True, metavar="PATH", help="CSV file, or data set; seen by no training"
    )
    parser.add_argument("--label-column", metavar="NAME", help="header of the column with the labels")
    add_table_options(parser)
    parser.add_argument("--split", choices=SPLITS, default="test", help="of a data set (default: %(default)s)")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw which class was taken for which")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument("--write-metrics", action="store_true", help="write the figures into the bundle's manifest")
    parser.add_argument("--dataset", metavar="TEXT", help="what the data are, for the manifest (default: the file)")
    options = parser.parse_args(arguments)
    try:
        folder = options.bundle
        if not (folder / "manifest.yaml").is_file():
            folder = find_bundle(folder.parent, folder.name)
        report = evaluate(folder, options)
        if options.plot is not None:
            draw(options.plot, report)
        if options.write_metrics:
            write_metrics(folder, report, options.dataset or options.data.name)
    except (AgentError, EvaluateError, DataSetError, OSError) as exc:
        print(f"evaluate: {exc}", file=sys.stderr)
        return 1
    print(json.dumps(report)) if options.json else print_table(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
