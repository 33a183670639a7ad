"""Train a small anomaly model on recordings of the usual, and make a bundle of it.

    python3 tools/train_anomaly.py --name press --data monday.csv tuesday.csv --rate-hz 100 --channels x,y,z
    python3 tools/train_anomaly.py --name press --data monday.csv --validation faults.csv --label-column is_fault …

The network is an autoencoder: it learns to give back windows of the usual through a narrow place, and fails at what it
has not met. How far it fails is the score. With labelled faults (--validation) the threshold and the smoothing of the
score are those that find them best. Without, the last fifth of each recording is kept back, and the threshold is one
and a half times what 99 of 100 windows of it stay under. Measure the bundle with tools/evaluate.py on a recording that
took no part in this.

Windows are cut, normalised and scored by the agent's own code. TensorFlow only trains: from where this runs if it is
there, or in an environment of its own (.venv-zoo: 2 GB, made on first use). `--example` makes models/swing of what
tools/watch_data.py has written.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
import numpy as np  # noqa: E402

from agent.capture.table import Rows  # noqa: E402
from agent.errors import AgentError  # noqa: E402
from agent.evaluation.anomalies import judge  # noqa: E402
from agent.evaluation.series import LabelledWindow, read_series  # noqa: E402
from agent.inference.bundle import load_bundle  # noqa: E402
from agent.inference.golden import make_golden  # noqa: E402
from agent.inference.series import window_of  # noqa: E402
from agent.manifest import AnomalyDecoder, Manifest, SeriesInput  # noqa: E402
from agent.runtime.files import write_atomic  # noqa: E402
from agent.runtime.yamlfile import DocumentError, parse_document  # noqa: E402
from agent.values import Samples, Window  # noqa: E402
from tools.build_zoo import ZooError  # noqa: E402
from tools.labelled import add_table_options, csv_source, positive  # noqa: E402
from tools.measures import best_threshold  # noqa: E402
from tools.training import TrainError, mean_and_std, rounded, run_network  # noqa: E402

NETWORK = ROOT / "tools" / "anomaly_network.py"
MAX_WINDOWS = 50_000
"""More are thinned out, evenly: windows one sample apart are much alike."""
MIN_WINDOWS = 200
KEPT_BACK = 0.2
USUAL_QUANTILE, MARGIN = 0.99, 1.5
GOLDEN_OF_A_KIND = 3

EXAMPLE_FILES = ROOT / ".cache" / "data" / "swing"
EXAMPLE = (
    "--name=swing", "--version=2026.11.1", "--rate-hz=50", "--model-rate-hz=25", "--label-column=is_anomaly",
    f"--validation={EXAMPLE_FILES / 'validation.csv'}",
    "--comment=An arm that swings, or does something else. Made by tools/train_anomaly.py --example.",
)  # fmt: skip


# --- from files to windows


def channels_of(options: argparse.Namespace) -> tuple[str, ...]:
    """Those that are asked for, or all columns of numbers. Raises SourceError."""
    if options.channels:
        return tuple(name.strip() for name in options.channels.split(","))
    rows = Rows(csv_source(options.data[0], options))
    rows.close()
    return tuple(name for name in rows.channels if name != options.label_column)


def training_windows(options: argparse.Namespace, window: Window) -> tuple[Samples, Samples]:
    """The usual, N x samples x channels, one sample apart: to learn, and the last fifth of each file, kept back.

    Raises:
        SourceError: a file can't be used.
        TrainError: there is too little in them.
    """
    learned: list[Samples] = []
    kept: list[Samples] = []
    for path in options.data:
        series = read_series(csv_source(path, options), msgspec.structs.replace(window, stride=1), options.label_column)
        usual = [one.samples for one in series.windows if not one.is_anomaly]
        print(f"{path}: {len(usual)} windows, {series.left_out} left out, {series.broken_rows} broken rows", flush=True)
        cut = round(len(usual) * (1 - KEPT_BACK))
        learned += usual[: max(0, cut - window.samples)]  # so that the two parts share no sample
        kept += usual[cut:]
    if len(learned) < MIN_WINDOWS or not kept:
        raise TrainError(
            f"{len(learned)} windows to learn from, expected {MIN_WINDOWS} or more: give longer recordings to --data, "
            f"or make windows shorter (--samples, now {window.samples})"
        )
    return _thin_out(learned), _thin_out(kept)


def _thin_out(windows: Sequence[Samples]) -> Samples:
    return np.stack(windows[:: -(-len(windows) // MAX_WINDOWS)])


# --- from windows to a model


def train(learned: Samples, kept: Samples, spec: SeriesInput, model: Path, options: argparse.Namespace) -> None:
    """Raises TrainError, ZooError."""
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    code = options.code or max(2, spec.samples * len(spec.channels) // 6)
    with tempfile.TemporaryDirectory(prefix="train-anomaly-") as scratch:
        windows = Path(scratch) / "windows.npz"
        np.savez(windows, learned=(learned - mean) / std, kept_back=(kept - mean) / std)
        run_network([str(windows), str(model), "--code", str(code), "--steps", str(options.steps)], NETWORK)


def choose(
    folder: Path, plain: Manifest, samples: int, labelled: Sequence[LabelledWindow], usual: Sequence[LabelledWindow]
) -> tuple[AnomalyDecoder, str]:
    """Threshold and smoothing, and in words how they were chosen; `samples` is the length of a window.

    Raises:
        ModelError: the bundle in `folder` can't be used.
    """
    if not any(one.is_anomaly for one in labelled):
        scores = [answer.score for answer in judge(load_bundle(folder, manifest=plain), usual)]
        threshold = MARGIN * float(np.quantile(scores, USUAL_QUANTILE))
        return AnomalyDecoder(threshold=rounded([threshold])[0]), "from the usual alone"
    labels = [one.is_anomaly for one in labelled]
    found: list[tuple[float, AnomalyDecoder]] = []
    for part in (1, 2, 4, 8):
        smooth = AnomalyDecoder(threshold=1.0, average_samples=max(1, samples // part))
        bundle = load_bundle(folder, manifest=msgspec.structs.replace(plain, decoder=smooth))
        threshold, f1 = best_threshold([answer.score for answer in judge(bundle, labelled)], labels)
        found.append((f1, msgspec.structs.replace(smooth, threshold=rounded([threshold])[0])))
    f1, decoder = max(found, key=lambda pair: pair[0])
    return decoder, f"F1 {f1:.4f} on the validation data"


# --- from a model to a bundle


def manifest_text(options: argparse.Namespace, spec: SeriesInput, decoder: AnomalyDecoder, chosen: str) -> str:
    """The manifest, without metrics: those are tools/evaluate.py's to write."""
    rate = "" if spec.rate_hz is None else f"\n  rate_hz: {spec.rate_hz:g}"
    smooth = "" if decoder.average_samples is None else f", average_samples: {decoder.average_samples}"
    return f"""\
# {options.comment or "Made by tools/train_anomaly.py."}
name: {options.name}
version: "{options.version}"
task: anomaly
input:
  type: series
  channels: {json.dumps(list(spec.channels), ensure_ascii=False)}
  samples: {spec.samples}
  stride: {spec.stride}{rate}
  mean: {list(spec.mean)}
  std: {list(spec.std)}
decoder: {{type: anomaly, threshold: {decoder.threshold}{smooth}}}   # {chosen}
labels: null
golden: {{dir: golden, min_agreement: 0.99}}
limits: {{max_infer_ms: 50, max_memory_bytes: 300MiB}}
"""


def draft(options: argparse.Namespace) -> tuple[SeriesInput, Manifest]:
    """Input and manifest before anything is known of the data. Raises SourceError, TrainError."""
    try:
        spec = SeriesInput(
            channels=channels_of(options),
            samples=options.samples,
            stride=options.stride or max(1, options.samples // 4),
            rate_hz=options.model_rate_hz,
        )
        text = manifest_text(options, spec, AnomalyDecoder(threshold=1.0), "")
        return spec, parse_document(text.encode(), Manifest, "these options")
    except DocumentError as exc:
        raise TrainError(str(exc).partition(": ")[2]) from exc  # without the line of a file that is not there yet
    except ValueError as exc:
        raise TrainError(str(exc)) from exc


def write_golden(folder: Path, windows: Sequence[LabelledWindow]) -> None:
    """A few windows of each kind with what the model says of them, as `edge-agent models golden` writes them."""
    bundle = load_bundle(folder)
    with tempfile.TemporaryDirectory(prefix="train-anomaly-") as scratch:
        paths = []
        for kind, wanted in (("usual", 0.0), ("anomaly", 1.0)):
            fitting = [one.samples for one in windows if one.anomalous_share == wanted]
            step = max(1, len(fitting) // GOLDEN_OF_A_KIND)
            for turn, samples in enumerate(fitting[step // 2 :: step][:GOLDEN_OF_A_KIND]):
                paths.append(Path(scratch) / f"{kind}-{turn + 1}.npy")
                np.save(paths[-1], samples)
        make_golden(folder, paths, bundle.run)


def make(options: argparse.Namespace) -> Path:
    """From files to a bundle; returns its folder. Raises TrainError, ZooError, AgentError, OSError."""
    folder: Path = options.out / options.name / options.version
    if folder.exists() and not options.force:
        raise TrainError(f"{folder} is there already: choose another --version, or --force")
    spec, plain = draft(options)
    window = window_of(spec)
    assert window is not None  # noqa: S101 - it is a series
    learned, kept = training_windows(options, window)
    labelled: list[LabelledWindow] = []
    if options.validation is not None:
        labelled = read_series(csv_source(options.validation, options), window, options.label_column).windows
    mean, std = mean_and_std(learned)
    spec = msgspec.structs.replace(spec, mean=mean, std=std)
    plain = msgspec.structs.replace(plain, input=spec)
    folder.mkdir(parents=True, exist_ok=True)
    train(learned, kept, spec, folder / "model.tflite", options)
    usual = [LabelledWindow(samples, 0.0, 0.0) for samples in kept]
    decoder, chosen = choose(folder, plain, spec.samples, labelled, usual)
    text = manifest_text(options, spec, decoder, chosen)
    write_atomic(folder / "manifest.yaml", text.encode(), mode=0o644)
    write_golden(folder, labelled or usual)
    write_atomic(folder.parent / "current", f"{options.version}\n".encode(), mode=0o644)
    size = (folder / "model.tflite").stat().st_size
    print(f"{folder}: {size} bytes, threshold {decoder.threshold}, {chosen}")
    return folder


def whole(text: str) -> int:
    """A whole number from 1 on, for argparse. Raises ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--example", action="store_true", help="make models/swing; all other options have their values then")
    add("--data", type=Path, nargs="+", default=[], metavar="FILE.csv", help="recordings of the usual")
    add("--validation", type=Path, metavar="FILE.csv", help="with labelled faults, to choose the threshold on")
    add("--label-column", metavar="NAME", help="header of the labels; rows labelled so are not learned")
    add("--channels", metavar="A,B,C", help="columns to learn (default: all that hold numbers)")
    add_table_options(parser)
    add("--model-rate-hz", type=positive, metavar="HZ", help="readings are averaged to this (default: as they come)")
    add("--samples", type=whole, default=32, help="length of a window; a period of the movement (default: %(default)s)")
    add("--stride", type=whole, help="samples from one window to the next (default: a quarter of a window)")
    add("--code", type=whole, help="numbers at the narrowest place (default: a sixth of a window's)")
    add("--steps", type=whole, default=12_000, help="of training (default: %(default)s)")
    add("--name", help="of the model")
    add("--version", default="1", help="(default: %(default)s)")
    add("--comment", help="first line of the manifest")
    add("--out", type=Path, default=ROOT / "models", metavar="DIR", help="models folder (default: %(default)s)")
    add("--force", action="store_true", help="write over a version that is there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.example:
        files = sorted(map(str, EXAMPLE_FILES.glob("train-*.csv")))
        more = ["--force"] if options.force else []
        options = parser.parse_args([*EXAMPLE, *more, "--out", str(options.out), "--data", *files])
    if not options.data or not options.name:
        mend = "run tools/watch_data.py first" if options.example else "--data and --name are needed, or --example"
        parser.error(mend)
    if options.validation is not None and options.label_column is None:
        parser.error("--validation wants --label-column: the header of its labels")
    try:
        make(options)
    except (TrainError, ZooError, AgentError, OSError) as exc:
        print(f"train_anomaly: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
