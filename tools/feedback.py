"""What devices are unsure of, back into the model: fetch their samples, label, learn, push what is better.

    python3 tools/feedback.py collect feedback/door --broker mqtts://me@broker.example --device cam-1
    python3 tools/feedback.py label   feedback/door --model models/parts
    python3 tools/feedback.py learn   feedback/door --model models/parts/1 --data .cache/data/parts \\
        --push --key keys/release-1.pem --broker mqtts://me@broker.example --group yard --wait
    python3 tools/feedback.py status  feedback/door

Devices keep samples where their pipeline has `feedback: {keep: hard}`; docs/feedback.md tells which. The folder holds
them with their labels; it can be fetched into and labelled as often as you like.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from agent.errors import AgentError, DataSetError, ModelError  # noqa: E402
from agent.inference.locate import find_bundle  # noqa: E402
from agent.manifest import load_labels, load_manifest  # noqa: E402
from tools.feedback_inbox import Inbox, Refused  # noqa: E402
from tools.operator_login import OperatorError, add_broker_options  # noqa: E402
from tools.train_options import from_1, share  # noqa: E402

EPILOG = (
    """exit codes: 0 done; 1 something failed; 2 wrong arguments; 3 the new model is not better: nothing was pushed"""
)


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=form)
    commands = parser.add_subparsers(dest="command", required=True)
    folder = "of the samples; made on use"
    collect = commands.add_parser("collect", help="have devices send what they keep")
    collect.add_argument("folder", type=Path, help=folder)
    collect.add_argument("--device", action="append", default=[], metavar="ID", help="ask this one; can be repeated")
    collect.add_argument("--pipeline", help="of the device (default: its only one)")
    collect.add_argument(
        "--seconds", type=from_1, default=60, help="without --device: wait for what comes by itself (default: 60)"
    )
    add_broker_options(collect)
    label = commands.add_parser("label", help="a page in your browser: one sample after the other")
    label.add_argument("folder", type=Path, help=folder)
    label.add_argument("--model", type=Path, help="a bundle, whose labels are offered")
    label.add_argument("--labels", nargs="+", default=[], metavar="LABEL", help="more labels")
    label.add_argument("--port", type=_port, default=8765, help="on this machine; 0: any (default: %(default)s)")
    status = commands.add_parser("status", help="how many samples there are, and of what")
    status.add_argument("folder", type=Path, help=folder)
    _add_learn(commands.add_parser("learn", help="train on, compare, and push if it is better on old data and on new"))
    return parser


def _add_learn(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, help="of the samples")
    add("--model", type=Path, required=True, help="bundle to go on from, made by tools/train.py")
    add("--data", type=Path, required=True, metavar="DIR", help="the data set that it was trained with")
    add("--version", help="of the new model (default: the old one's with -f1, -f2, ...)")
    add("--weight", type=float, help="of a new sample (default: all together half of the old ones', at most 20 each)")
    add("--epochs", type=from_1, default=3, help="at most (default: %(default)s)")
    add("--seed", type=int, default=1, help="(default: %(default)s)")
    add("--min-gain", type=share, default=0.02, metavar="SHARE", help="of accuracy on new data (default: %(default)s)")
    add("--max-loss", type=share, default=0.003, metavar="SHARE", help="of it on old data (default: %(default)s)")
    add("--train-option", action="append", default=[], metavar="OPTION", help="for tools/train.py, as --shift-px=1")
    add("--report", type=Path, metavar="FILE", help="write the figures as JSON")
    add("--push", nargs=argparse.REMAINDER, help="what follows are the options of tools/push_model.py")


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"expected 0 to 65535, got {text!r}")
    return int(text)


def status(folder: Path) -> int:
    """The command `status`. Raises DataSetError."""
    if not folder.is_dir():
        raise DataSetError(f"{folder}: no such folder; `feedback.py collect` makes it")
    samples = list(Inbox(folder).all())
    truths = Counter(sample.info.truth for sample in samples)
    reasons = Counter(reason for sample in samples for reason in sample.info.reasons)
    right = [sample.info.truth == sample.info.predicted for sample in samples if sample.info.truth]
    print(f"{len(samples)} samples, {len(right)} with a label; kept because: {dict(reasons)}")
    if right:
        print(f"the model was right on {sum(right)} of {len(right)} ({sum(right) / len(right):.1%})")
    for truth, count in sorted((one for one in truths.items() if one[0]), key=lambda one: -one[1]):
        print(f"  {truth:<20} {count}")
    return 0


def _labels(options: argparse.Namespace) -> list[str]:
    """Raises ModelError."""
    if options.model is None:
        return list(options.labels)
    has = (options.model / "manifest.yaml").is_file()
    folder = options.model if has else find_bundle(options.model.parent, options.model.name)
    manifest = load_manifest(folder / "manifest.yaml")
    if manifest.labels is None:
        raise ModelError(f"{folder}: its manifest names no labels; give --labels")
    return [*load_labels(folder / manifest.labels), *options.labels]


def run(options: argparse.Namespace) -> int:
    """Raises what the commands raise."""
    if options.command == "status":
        return status(options.folder)
    if options.command == "label":
        from tools.feedback_page import label  # noqa: PLC0415 - each command imports what it needs

        return label(options, _labels(options), print)
    if options.command == "collect":
        from tools.feedback_fetch import collect  # noqa: PLC0415

        return collect(options, print)
    from tools.feedback_learn import errors, learn  # noqa: PLC0415

    try:
        return learn(options, print)
    except errors() as exc:
        raise AgentError(str(exc)) from exc


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        return run(options)
    except (AgentError, OSError) as exc:
        print(f"feedback: {exc}", file=sys.stderr)
        return 1
    except (OperatorError, Refused) as exc:
        print(f"feedback: {exc}", file=sys.stderr)
        return exc.exit_code


if __name__ == "__main__":
    sys.exit(main())
