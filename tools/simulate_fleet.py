"""Take a fleet of simulated devices through a broker's restart and power cuts, and see how they come back.

    tools/simulate_fleet.py --own-broker --devices 1000
    tools/simulate_fleet.py --broker mqtt://test.example --restart-command 'ssh test.example restart-broker'

1. All connect at once, and publish results.
2. The broker goes away and comes back: all have to be connected again within a bound, without a second storm.
3. A tenth of the fleet gets kill -9, then all of it: each will has to lie on the broker.

No other connection may end: no client id is in use twice. The devices run the agent's own publish loop, link and
back-off, a thread each, in processes of up to a hundred. Use a broker for tests. All devices share a login, so its
access list can't tell them apart, and it may not take the client id from the login.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
from rich.console import Console  # noqa: E402

from tools.fleet_broker import Target, given_broker, own_broker, tidy_up  # noqa: E402
from tools.fleet_device import Fleet  # noqa: E402
from tools.fleet_report import Outcome, show  # noqa: E402
from tools.fleet_run import Run  # noqa: E402
from tools.fleet_watch import Watch  # noqa: E402
from tools.fleet_workers import Workers  # noqa: E402
from tools.operator_link import OperatorLink  # noqa: E402
from tools.operator_login import OperatorError, UsageError, add_broker_options  # noqa: E402

INTERRUPTED = 130
EPILOG = "exit codes: 0 all was as promised; 1 it was not, or it came to nothing; 2 an option is wrong"


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    form: Any = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=form)
    add = parser.add_argument
    add("--devices", type=_count, default=1000, metavar="N", help="how many, up to 9999 (default: %(default)s)")
    add("--rate", type=_positive, default=0.2, metavar="HZ", help="results a second of each (default: %(default)s)")
    add("--seconds", type=_positive, default=10.0, metavar="S", help="how long to leave them alone (default: 10)")
    add("--name", type=_name, default="sim", help="the devices are NAME-0001 and so on (default: %(default)s)")
    add("--own-broker", action="store_true", help="start a mosquitto on the loopback for it, instead of --broker")
    add("--down", type=_positive, default=5.0, metavar="S", help="with --own-broker: how long it is away (default: 5)")
    restart = "what restarts the broker of --broker; without it, step 2 is left out"
    add("--restart-command", metavar="COMMAND", help=restart)
    add("--json", action="store_true", help="the figures as one JSON document on standard output")
    add_broker_options(parser)
    return parser


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 9999:
        raise argparse.ArgumentTypeError(f"expected 1 to 9999, got {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number <= 3600:
        raise argparse.ArgumentTypeError(f"expected a number over 0, up to 3600, got {text!r}")
    return number


def _name(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,50}", text):
        raise argparse.ArgumentTypeError(f"expected small letters, digits, _ and -, got {text!r}")
    return text


def simulate(args: argparse.Namespace, target: Target) -> Outcome:
    """Start the fleet, take it through all steps, and end it.

    Raises:
        OperatorError: there is no way to the broker, or not for all; one line that says why.
    """
    console = Console(stderr=True)
    names = tuple(f"{args.name}-{number:04}" for number in range(1, args.devices + 1))
    fleet = Fleet(target.mqtt, names, args.rate, epoch=0)
    with OperatorLink(target.login, args.prefix, lambda text: console.print(text, highlight=False)) as link:
        try:
            watch = Watch(link, args.prefix, console)
            with Workers(fleet) as workers:
                return Run(target, workers, watch, args.devices, args.seconds).all()
        finally:
            if not target.is_own:
                tidy_up(link, target.login, args.prefix, names)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        if args.own_broker and (args.restart_command or args.broker != parser.get_default("broker")):
            raise UsageError("--own-broker: expected without --broker and --restart-command")
        with (own_broker if args.own_broker else given_broker)(args) as target:
            outcome = simulate(args, target)
    except OperatorError as exc:
        print(f"simulate_fleet: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    if args.json:
        print(msgspec.json.format(msgspec.json.encode(outcome), indent=2).decode())
    else:
        print("\n".join(show(outcome)))
    return 1 if outcome.broken else 0


if __name__ == "__main__":
    sys.exit(main())
