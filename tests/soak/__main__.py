"""Run the real daemon for a while, with one thing after another failing, and see what it costs and whether all arrives.

Without --faults: for --minutes, with faults that leave the daemon's processes alive, so that memory, descriptors and
threads can be compared: the first tenth, after two minutes of warming up, with the last. With --faults: so many, also
those that kill the daemon, its workers and the collector; then growth is not judged.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest
from rich.progress import Progress

from tests.soak.faults import gentle_faults, rough_faults
from tests.soak.ledger import judge
from tests.soak.report import print_report
from tests.soak.rig import DEVICE, Rig

GENTLE_PAUSE_S = (4.0, 14.0)
ROUGH_PAUSE_S = (0.3, 3.0)
UPDATE_EVERY_S = 75.0
START_S = 60.0


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    epilog = "exit codes: 0 all is well; 1 something was lost, ended or grew; 2 an option is wrong"
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("make soak", description=__doc__, epilog=epilog, formatter_class=form)
    add = parser.add_argument
    add("--minutes", type=float, default=30.0, metavar="N", help="how long without --faults (%(default)g)")
    add("--faults", type=int, metavar="N", help="so many faults of all kinds instead")
    add("--trim", choices=["collector", "broker"], default="collector", help="outbox.trim (%(default)s)")
    add("--seed", type=int, metavar="N", help="take the faults of an earlier run")
    add("--keep", type=Path, metavar="DIR", help="leave logs and databases in this folder, which is made")
    return parser


def main() -> int:
    args = make_parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # unmount, and end what was started
    seed = random.randrange(1 << 32) if args.seed is None else args.seed
    folder = args.keep or Path(tempfile.mkdtemp(prefix="soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"seed {seed}, trim: {args.trim}, in {folder}", flush=True)
    try:
        with ExitStack() as stack:
            rig = Rig(folder.resolve(), args.trim, random.Random(seed), stack)
            rig.agent.wait_for_status(lambda status: status["mqtt"]["connected"], START_S)
            began_s = time.monotonic()
            done = run(rig, args.minutes * 60, args.faults)
            took_s = time.monotonic() - began_s
            rig.settle()
            verdict = judge(rig.accepted.ids, rig.collector, DEVICE, rig.kills)
            well = print_report(rig, done, verdict, took_s, trim=args.trim, judge_growth=args.faults is None)
    except (pytest.skip.Exception, pytest.fail.Exception) as exc:
        print(exc, file=sys.stderr)
        return 1
    if well and args.keep is None:
        shutil.rmtree(folder)
    return 0 if well else 1


def run(rig: Rig, seconds: float, count: int | None) -> Counter[str]:
    """Let faults happen; returns how many of each there were."""
    faults = gentle_faults(rig) | (rough_faults(rig) if count is not None else {})
    pause_s = GENTLE_PAUSE_S if count is None else ROUGH_PAUSE_S
    done: Counter[str] = Counter()
    began_s = time.monotonic()
    updated_s = 0.0
    order: list[str] = []
    with Progress(disable=not sys.stdout.isatty()) as progress:
        task = progress.add_task("soaking", total=seconds if count is None else count)
        while (done.total() < count) if count is not None else (time.monotonic() - began_s < seconds):
            if not order:  # each kind as often as the others, in an order of its own each time
                order = rig.rng.sample(sorted(faults), len(faults))
            name = order.pop()
            progress.update(task, description=name)
            faults[name]()
            done[name] += 1
            rig.pause(rig.rng.uniform(*pause_s))
            if time.monotonic() - updated_s > UPDATE_EVERY_S:
                updated_s = time.monotonic()
                rig.push_update()
            elapsed_s = time.monotonic() - began_s
            progress.update(task, completed=elapsed_s if count is None else done.total())
            if progress.disable and done.total() % 20 == 0:
                print(f"{elapsed_s:.0f} s, {done.total()} faults, {len(rig.accepted.ids)} messages", flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main())
