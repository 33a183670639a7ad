"""Measure a model on labelled data, exactly as the agent runs it: in its worker, with its preprocessing and decoder.

    python3 tools/evaluate.py models/swing/2026.11.1 --data agent/demo/swing.csv --rate-hz 50 --label-column is_anomaly
    python3 tools/evaluate.py models/digits --data .cache/data/mnist --plot confusion.png --pr-plot curves.png
    python3 tools/evaluate.py models/face --data my_faces --min-confidence 0.6 --write-metrics
    python3 tools/evaluate.py models/level --data .cache/data/tank --plot scatter.png
    python3 tools/evaluate.py models/load --data week.csv --time-column time --plot by_step.png

Of a model that tells classes apart: the data are a data set (tools/dataset.py), of which one split counts. The answer
is the class with the highest confidence. Accuracy, precision, recall, F1 and average precision are scikit-learn's, each
class against all others; without a class's name they are the mean over the classes (macro). Calibration: expected error
over 15 bins, Brier's score, and the temperature that would fit best.

Of a model that finds boxes: the data are a folder of pictures with COCO's annotations.json. Mean average precision is
pycocotools'; precision, recall and F1 are of what the agent reports, at --min-confidence and an overlap of 0.5.

Of an anomaly model: a row is labelled an anomaly when the label column holds a number other than 0; a window is
labelled an anomaly when one row or more of it is. Precision, recall and F1 count windows. An anomaly of the recording
is a stretch of labelled windows; it is found when the model says so in one of them. A false alarm is a stretch of
windows that the model calls an anomaly and none of which is labelled so.

Of a model that gives numbers (decoder regress): the data are a data set whose labels are numbers, one for each value,
with blanks between. MAE, RMSE, R2 and the median absolute error are scikit-learn's; `baseline` always says the mean.

Of a model that says what comes next (decoder forecast): the data are a CSV file of readings, without labels. MAE and
RMSE of each channel and MAE of each step ahead, beside two forecasts that need no model: the last sample stays
(`persistence`), the mean of the window does. Skill is 1 - MAE / persistence's MAE.

`edge-agent evaluate` measures the same on the device. This tool also draws, and writes figures into the manifest.
"""

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agent.cli.evaluate import follow  # noqa: E402
from agent.errors import AgentError  # noqa: E402
from agent.evaluation.common import Report  # noqa: E402
from agent.evaluation.evaluate import Labelled, evaluate  # noqa: E402
from agent.evaluation.tables import lines  # noqa: E402
from agent.inference.locate import find_bundle  # noqa: E402
from agent.manifest import load_manifest  # noqa: E402
from agent.runtime.files import write_atomic  # noqa: E402
from tools.evaluate_plots import draw_confusion, draw_curves, draw_reliability, draw_scatter, draw_steps  # noqa: E402
from tools.labelled import add_table_options  # noqa: E402
from tools.picture_set import SPLITS  # noqa: E402

IN_MANIFEST: Mapping[str, tuple[str, ...]] = {
    "anomaly": ("f1", "precision", "recall", "windows", "anomalies", "anomalies_found", "false_alarms_per_hour"),
    "classify": (
        "accuracy",
        "f1",
        "precision",
        "recall",
        "average_precision",
        "worst_class",
        "worst_f1",
        "calibration_error",
        "pictures",
        "windows",
        "threads_speedup",
    ),
    "detect": (
        "map_50_95",
        "map_50",
        "f1",
        "precision",
        "recall",
        "min_confidence",
        "worst_class",
        "worst_f1",
        "pictures",
        "boxes",
    ),
    "regress": (
        "mae",
        "rmse",
        "r2",
        "p95_absolute_error",
        "bias",
        "baseline_mae",
        "persistence_mae",
        "skill",
        "steps",
        "pictures",
        "windows",
        "without_values",
    ),
}
"""What `--write-metrics` writes down, for each task, as far as it was measured."""


class EvaluateError(Exception):
    """One line: what is wrong, where, and how to mend it."""


def print_table(report: Report) -> None:
    """A line for each figure, and the tables."""
    print(*lines(report), sep="\n")


def draw(report: Report, plot: Path | None, curves: Path | None, reliability: Path | None) -> None:
    """The pictures that are asked for, as PNG. Raises EvaluateError: it was not measured; DataSetError, OSError."""
    for option, path, keys in (
        ("--plot", plot, ("confusion", "points", "by_step_of")),
        ("--pr-plot", curves, ("curves",)),
        ("--calibration-plot", reliability, ("reliability",)),
    ):
        if path is not None and not report.keys() & keys:
            raise EvaluateError(
                f"{option}: there is nothing to draw for task {report['task']}, or for these confidences"
            )
    if plot is not None and "confusion" in report:
        draw_confusion(plot, report["confusion"], report["labels"])
    elif plot is not None and "points" in report:
        draw_scatter(plot, report["points"]["labels"], report["points"]["answers"])
    elif plot is not None:
        draw_steps(plot, report["by_step_of"])
    if curves is not None:
        draw_curves(curves, report["curves"])
    if reliability is not None:
        draw_reliability(reliability, report["reliability"], report["calibration_error"])


def write_metrics(folder: Path, report: Report, dataset: str) -> None:
    """Put the figures into the manifest; its other lines stay as they are.

    Raises:
        EvaluateError, ModelError: what comes out is no manifest with these figures; nothing is written.
        OSError: it can't be read or written.
    """
    figures: Report = {name: report[name] for name in IN_MANIFEST[str(report["task"])] if report.get(name) is not None}
    figures["dataset"] = dataset
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


def from_1(text: str) -> int:
    """A whole number from 1 on, for argparse. Raises ValueError."""
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def share(text: str) -> float:
    """From 0 to 1, for argparse. Raises ValueError."""
    if not 0.0 <= (number := float(text)) <= 1.0:
        raise ValueError(text)
    return number


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 measured, 1 something failed, 2 wrong arguments",
    )
    add = parser.add_argument
    add("bundle", type=Path, help="a bundle's folder, or that of a model: its current version")
    add("--data", type=Path, required=True, metavar="PATH", help="CSV file, or folder; seen by no training")
    add("--split", choices=SPLITS, default="test", help="of a folder (default: %(default)s)")
    add(
        "--limit",
        type=from_1,
        metavar="N",
        help="at most so many samples, spread evenly; of a CSV file, the first windows",
    )
    add("--min-confidence", type=share, default=0.5, help="what boxes are reported from (default: %(default)s)")
    add("--label-column", metavar="NAME", help="of anomalies in a CSV file: header of the column with the labels")
    add_table_options(parser)
    add(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help="draw which class was taken for which, answers over labels, or errors by step ahead",
    )
    add("--pr-plot", type=Path, metavar="FILE.png", help="draw precision over recall, for each class")
    add("--calibration-plot", type=Path, metavar="FILE.png", help="draw accuracy over confidence")
    add("--json", action="store_true", help="print one JSON document")
    add("--write-metrics", action="store_true", help="write the main figures into the bundle's manifest")
    add("--dataset", metavar="TEXT", help="what the data are, for the manifest (default: the file)")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    data = Labelled(
        path=options.data,
        split=options.split,
        limit=options.limit,
        min_confidence=options.min_confidence,
        label_column=options.label_column,
        rate_hz=options.rate_hz,
        time_column=options.time_column,
        delimiter=options.delimiter,
    )
    try:
        folder: Path = options.bundle
        if not (folder / "manifest.yaml").is_file():
            folder = find_bundle(folder.parent, folder.name)
        report = evaluate(folder, data, follow=follow)
        draw(report, options.plot, options.pr_plot, options.calibration_plot)
        if options.write_metrics:
            write_metrics(folder, report, options.dataset or options.data.name)
    except (AgentError, EvaluateError, OSError) as exc:
        print(f"evaluate: {exc}", file=sys.stderr)
        return 1
    print(json.dumps(report)) if options.json else print_table(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
