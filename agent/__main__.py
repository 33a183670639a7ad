"""The command line: the only place that reads argv and decides the exit code."""

import argparse
import errno
import importlib
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import __version__
from agent.cli.common import DEFAULT_CONFIGS
from agent.errors import AgentError
from agent.runtime.malloc import spare_memory
from agent.runtime.units import Duration

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
EPILOG = """\
exit codes: 0 all well, 1 something failed, 2 configuration, 3 model, 4 a source that can never work

first steps:
  edge-agent demo                     the whole thing on this machine, without any set-up
  edge-agent discover                 the devices of this machine, each with the YAML that uses it
  edge-agent check                    try everything that `run` needs, and say how to mend what fails
  edge-agent run                      the daemon
  edge-agent models                   the models on this device, and what became of their updates
"""


def make_parser() -> argparse.ArgumentParser:
    """The parser with all commands; each module of `agent.cli` is one command."""
    parser = argparse.ArgumentParser(
        prog="edge-agent",
        description="Frames from cameras through TFLite models to MQTT, on small computers, for months.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edge-agent {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", metavar="FILE", help=f"default: {', then '.join(map(str, DEFAULT_CONFIGS))}")
    as_json = argparse.ArgumentParser(add_help=False)
    as_json.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def add(name: str, text: str, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=text, parents=[common, *parents])

    add("run", "the daemon; SIGTERM or Ctrl-C stops it in order")
    add("check", "try everything that run needs, a line each, and say how to mend what fails", as_json)
    add("discover", "find cameras, microphones, sensors, serial ports, gpsd, and print the YAML for each", as_json)
    replay = add("replay", "put recorded frames through the frame path: every frame, no broker, same in, same out")
    replay.add_argument("--source", required=True, metavar="PATH", help="a video, a picture, or a folder of pictures")
    replay.add_argument("--pipeline", metavar="NAME", help="whose model and settings to use; default: the first")
    replay.add_argument("--out", required=True, metavar="FILE.jsonl", help="one result message a line; - for stdout")
    bench = add("bench", "measure this machine with the configured source and model", as_json)
    bench.add_argument(
        "--seconds", type=_between(0.1, 1e6), default=10.0, metavar="N", help="how long to measure; default: 10"
    )
    bench.add_argument("--pipeline", metavar="NAME", help="which pipeline to measure; default: the first")
    _add_evaluate(add("evaluate", "measure a model on labelled data, on this machine, as the daemon runs it", as_json))
    inspect = add("inspect", "print a model's tensors, metadata and labels, and a manifest that fits", as_json)
    inspect.add_argument("model", metavar="MODEL.tflite")
    inspect.add_argument("--manifest", metavar="FILE", help="write the manifest here, instead of printing it")
    add("status", "ask the daemon that runs on this host", as_json)
    results = add("results", "what this device still keeps of what its models said, sent or not (keep_sent)", as_json)
    results.add_argument("--since", type=_ago, default="1h", metavar="TIME", help="such as 30min, 1h, 7d; default: 1h")
    results.add_argument("--pipeline", metavar="NAME", help="of this one; default: of all")
    _add_models(
        add("models", "the models on this device: list, verify, activate, rollback; make golden samples", as_json)
    )
    schema = add("schema", "print the JSON Schema of the configuration; editors complete config.yaml with it")
    schema.add_argument("--messages", metavar="DIR", help="write the JSON Schemas of all messages there instead")
    demo = add("demo", "the whole thing on this machine: embedded broker, bundled clip, real model")
    demo.add_argument(
        "--seconds", type=_between(0.1, 1e6), metavar="N", help="end by itself; default: run until Ctrl-C"
    )
    return parser


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.formatter_class = argparse.RawDescriptionHelpFormatter
    evaluate.epilog = """\
DATA is a folder with index.csv (classes, numbers) or COCO's annotations.json (boxes), or a CSV file of readings
(anomalies, forecasts):
  edge-agent evaluate digits --data mnist --limit 1000
  edge-agent evaluate models/face/2026.11.1 --data faces --json
  edge-agent evaluate swing --data swing.csv --label-column is_anomaly
  edge-agent evaluate load --data week.csv --time-column time
docs/learning.md tells what the figures mean; tools/evaluate.py draws them too."""
    option = evaluate.add_argument
    option("model", metavar="MODEL", help="a model of models.dir, or the folder of a bundle")
    option("--data", required=True, metavar="DATA", help="seen by no training")
    option("--split", default="test", choices=("train", "validation", "test"), help="of a folder; default: test")
    option("--limit", type=_from_1, metavar="N", help="at most so many samples, spread evenly; of readings, the first")
    text = "what boxes are reported from; default: as the first pipeline with this model, or 0.5"
    option("--min-confidence", type=_between(0, 1), metavar="N", help=text)
    option("--label-column", metavar="NAME", help="of anomalies in a CSV file: header of the labels; not 0 is one")
    option("--rate-hz", type=_between(1e-9, 1e9), metavar="HZ", help="of its rows; default: the model's")
    option("--time-column", metavar="NAME", help="header of the time; default: rows come at --rate-hz")
    option("--delimiter", choices=tuple(",;:|/\t "), default=",", metavar="C", help="between columns; default: ,")


def _from_1(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return number


def _between(low: float, high: float) -> Callable[[str], float]:
    """A type of numbers."""

    def read(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not low <= number <= high:
            raise argparse.ArgumentTypeError(f"expected a number from {low:g} to {high:g}, got {text!r}")
        return number

    return read


def _ago(text: str) -> float:
    """Seconds."""
    try:
        return Duration.parse(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{exc}, got {text!r}") from exc


def _add_models(models: argparse.ArgumentParser) -> None:
    """`edge-agent models` has commands of its own; without one it lists."""
    again = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)  # also behind the last word
    again.add_argument("--config", metavar="FILE", help="as above")
    as_json = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    as_json.add_argument("--json", action="store_true", help="print one JSON document and nothing else on stdout")
    actions = models.add_subparsers(dest="action", metavar="ACTION")

    def add(name: str, text: str, *parents: argparse.ArgumentParser, more: str = "") -> argparse.ArgumentParser:
        return actions.add_parser(name, help=text, description=f"{text}. {more}", parents=[again, *parents])

    add("list", "every model with its versions, their states, sizes and digests; the default", as_json)
    verify = add("verify", "hold what lies on the disk against the record, and load it; exit 3 if one is bad", as_json)
    verify.add_argument("model", metavar="MODEL", nargs="?", help="default: all")
    activate = add(
        "activate",
        "use a version that lies on this device",
        more="The running daemon swaps at once; without one, the next start uses it. The bundle is loaded first.",
    )
    activate.add_argument("model", metavar="MODEL")
    activate.add_argument("version", metavar="VERSION", help="one that `edge-agent models` lists")
    rollback = add(
        "rollback", "go back to the version before", more="As with activate, a running daemon does it at once."
    )
    rollback.add_argument("model", metavar="MODEL")
    golden = add(
        "golden",
        "make golden samples: pictures with what the model says of them now",
        more="Devices try them before the bundle goes live. The manifest needs golden: {dir: golden}.",
    )
    golden.add_argument("folder", metavar="FOLDER", help="of the bundle, such as models/face/2026.12.1")
    golden.add_argument("pictures", metavar="PICTURE", nargs="+", help="PNG or JPEG")
    golden.add_argument("--min-confidence", type=float, default=0.5, metavar="N", help="default: 0.5")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and give its exit code; errors that a user can cause are one line on stderr."""
    args = make_parser().parse_args(argv)
    spare_memory()
    try:
        try:
            command = importlib.import_module(f"agent.cli.{args.command}")
            code = int(command.main(args))
        except AgentError as exc:
            print(f"edge-agent: {exc}", file=sys.stderr)
            code = exc.exit_code
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where an error has a place to go to
        return code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `edge-agent ... | head`
        sys.stderr.close()
        return 1
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        with Path(os.devnull).open("wb") as nowhere:  # what is left would be tried again at the exit
            os.dup2(nowhere.fileno(), 1)
        print(f"edge-agent: {exc.filename or 'standard output'}: {(exc.strerror or '').lower()}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
