"""Collect what devices send: store it, drop what comes twice, see that nothing is missing, and tell the devices.

    tools/collect.py --broker mqtts://collector@broker.example --store sqlite:collected.db
    tools/collect.py --store postgresql://collector@db.example/edge --group hall --client-id hall-1
    tools/collect.py --store parquet:collected
    tools/collect.py --store sqlite:collected.db --report

A device with `outbox.trim: collector` keeps each message until it is acknowledged here, after it is on the disk. Its
access list: this user reads devices/#, and writes devices/+/ack.
"""

import argparse
import contextlib
import json
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402

from agent.wire.messages import Ack, encode  # noqa: E402
from agent.wire.topics import Topics  # noqa: E402
from tools.collect_link import CollectorLink  # noqa: E402
from tools.collect_messages import STREAMS, BadMessage, Numbered, Picture, parse  # noqa: E402
from tools.collect_report import DeviceReport, make_report  # noqa: E402
from tools.collect_store import Store, Stored, open_store  # noqa: E402
from tools.operator_login import OperatorError, UsageError, add_broker_options, read_login  # noqa: E402

MAX_BATCH = 500
BATCH_S = 0.1
"""A transaction takes what comes within this time, at most."""
QUIET_S = 0.005
"""Nothing more comes at once: the broker waits for what it has sent to be acknowledged."""
INTERRUPTED = 130
EPILOG = """exit codes: 0 stopped as asked, or a report without holes; 1 it came to nothing, or something is missing;
2 an option is wrong"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    form: Any = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=form)
    add = parser.add_argument
    where = "sqlite:FILE, parquet:FOLDER, or postgresql://[user@]host/name (default: %(default)s)"
    add("--store", default="sqlite:collected.db", metavar="URL", help=where)
    add("--report", action="store_true", help="say what the store holds and what is missing, and end; needs no broker")
    add("--json", action="store_true", help="with --report: one JSON document on standard output")
    share = "share the load with the other collectors of this group (MQTT 5 shared subscriptions); all use one store"
    add("--group", type=name, metavar="NAME", help=share)
    session = (
        "names this collector to the broker, which keeps for it what comes while it is away (a week; five minutes with "
        "--group): one of its own for each"
    )
    add("--client-id", type=name, default=f"collector-{host_name()}", metavar="NAME", help=f"{session} (%(default)s)")
    add_broker_options(parser)
    return parser


def name(text: str) -> str:
    """Of a group or a client."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise argparse.ArgumentTypeError(f"expected letters, digits, _ and -, got {text!r}")
    return text


def host_name() -> str:
    """As it may stand in a client id."""
    return re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname().split(".")[0])[:40] or "1"


class Collector:
    """From the broker into a store, and back to the devices."""

    def __init__(self, link: CollectorLink, store: Store, prefix: str, say: Callable[[str], object]) -> None:
        self._link, self._store, self._prefix, self._say = link, store, prefix, say
        self._floors: dict[str, int] = {}
        self._complained: set[str] = set()
        self.total = Stored()
        self.refused = 0
        """Messages that no device sends."""

    def begin(self) -> None:
        """See how far devices were acknowledged before, perhaps by a collector with another store.

        Raises:
            OperatorError: the broker refuses it, or is away for too long.
        """
        for topic, payload in self._link.acks(f"{self._prefix}/devices/+/ack").items():
            with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                self._floors[topic.split("/")[-2]] = msgspec.json.decode(payload, type=Ack).seq

    def turn(self, timeout_s: float) -> None:
        """Wait for messages, store them, and acknowledge them: to the broker and to the devices.

        Raises:
            OperatorError: the broker refuses something, or the store failed.
        """
        self._gather(timeout_s)
        arrived, self._link.arrived = self._link.arrived, []
        batch: list[Numbered | Picture] = []
        for message in arrived:
            try:
                batch.append(parse(message, self._prefix))
            except BadMessage as exc:
                self._refuse(message.topic, exc)
        if batch:
            self._tell(self._store.put(batch, self._floors))
        else:
            self._store.tend()
        self._link.done(arrived)

    def _gather(self, timeout_s: float) -> None:
        if not self._link.arrived:
            self._link.wait(timeout_s)
        until_s, before = time.monotonic() + BATCH_S, 0
        while before < len(self._link.arrived) < MAX_BATCH and time.monotonic() < until_s:
            before = len(self._link.arrived)
            self._link.wait(QUIET_S)

    def _refuse(self, topic: str, why: BadMessage) -> None:
        self.refused += 1
        if topic not in self._complained and len(self._complained) < MAX_BATCH:
            self._complained.add(topic)
            self._say(f"not stored: {ascii(str(why))[1:-1]}")

    def _tell(self, stored: Stored) -> None:
        """Acknowledge to the devices, also what came twice: an acknowledgement may have been lost."""
        self.total.new += stored.new  # first: a signal may come at any instant
        self.total.duplicates += stored.duplicates
        for device, seq in stored.whole_to.items():
            if seq:
                self._link.publish_retained(Topics(self._prefix, device).ack(), encode(Ack(seq=seq)))
        for gap in stored.gaps:
            self._say(f"{gap.device}: a gap before {gap.seq}: {gap.payload}")
        for device, seq in stored.begun_again:
            self._say(f"{device}: its numbers begin again at {seq}, below the last: a new card, or an older one?")
        for device, behind, to in stored.given_up:
            self._say(f"{device}: what lay between {behind} and {to + 1} will not come; the device does not have it")


def collect(args: argparse.Namespace, store: Store, say: Callable[[str], object]) -> None:
    """Collect until a signal. It may come at any instant: what is not stored then is not acknowledged either."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    share = f"$share/{args.group}/" if args.group else ""
    filters = [f"{share}{args.prefix}/devices/+/{stream}" for stream in STREAMS]
    with CollectorLink(read_login(args), args.prefix, say, args.client_id, filters) as link:
        collector = Collector(link, store, args.prefix, say)
        with contextlib.suppress(KeyboardInterrupt):
            collector.begin()
            say("collecting")
            while True:
                collector.turn(1.0)
        total = collector.total
        say(f"{total.new} messages stored, {total.duplicates} came twice, {collector.refused} were none")


def show(reports: Sequence[DeviceReport], *, as_json: bool) -> None:
    """The report on standard output."""
    if as_json:
        devices = {report.device: {**msgspec.to_builtins(report), "complete": report.complete} for report in reports}
        print(json.dumps({"devices": devices, "complete": all(report.complete for report in reports)}, indent=2))
        return
    for report in reports:
        evicted = ", ".join(f"{count} by {reason}" for reason, count in report.evicted.items())
        print(f"{report.device}: {report.messages} messages, {report.first} to {report.last}, {report.late} late")
        print(f"  gaps announced: {report.gaps}" + (f" ({evicted})" if evicted else ""))
        for behind, to in report.missing[:20]:
            print(f"  missing, and not announced: between {behind} and {to + 1}")
        if len(report.missing) > 20:
            print(f"  and {len(report.missing) - 20} more")


def must_be_there(url: str) -> None:
    """A report of a store that a typing error names would make it, and say that nothing is missing.

    Raises:
        OperatorError: there is no such file or folder.
    """
    kind, _, path = url.partition(":")
    if kind in ("sqlite", "parquet") and path.lstrip("/") and not Path(path).exists():
        raise OperatorError(f"--store {url}: no such store; a collector makes it")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = make_parser()
    args = parser.parse_args(arguments)
    try:
        if args.json and not args.report:
            raise UsageError("--json: expected with --report")
        if args.report:
            must_be_there(args.store)
        with contextlib.closing(open_store(args.store)) as store:
            if not args.report:
                collect(args, store, lambda text: print(f"collect: {text}", file=sys.stderr, flush=True))
                return 0
            reports = make_report(store)
            show(reports, as_json=args.json)
            return 0 if all(report.complete for report in reports) else 1
    except OperatorError as exc:
        print(f"collect: {exc}", file=sys.stderr)
        return exc.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
