"""Send a model to devices: pack a bundle, sign a release of it, and lay both on the broker for seven days.

Devices fetch it when they come, check it, try it beside the model that they run, and go back to that one if it is
worse; this tool may be gone by then. With --wait it stays and shows how far each of them is.

    tools/push_model.py models/face --key keys/release-1.pem --broker mqtts://me@broker.example --device cam-1 --wait
    tools/push_model.py models/face --key keys/release-1.pem --percent 10 --salt spring     a tenth of the fleet
    tools/push_model.py models/face --key keys/release-1.pem --percent 100 --salt spring    and then all of it

Going back is a push, too: of the old bundle.
"""

import argparse
import contextlib
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402
from rich.console import Console  # noqa: E402

from agent.runtime.units import Duration  # noqa: E402
from agent.updates.verify import Trust  # noqa: E402
from agent.wire.releases import Acceptance, Release  # noqa: E402
from agent.wire.topics import Topics  # noqa: E402
from tools.operator_link import OperatorLink, connect  # noqa: E402
from tools.operator_login import OperatorError, UsageError, a_name, add_broker_options  # noqa: E402
from tools.push_view import RolloutView, show_release, upload_bar  # noqa: E402
from tools.release_maker import Authority, Cargo, find_bundle, load_authority, pack, seal  # noqa: E402
from tools.rollout import Fleet, Rollout, choose_number, look_around  # noqa: E402
from tools.signers import add_key_options, load_signer, passphrase_reader  # noqa: E402

EXPIRY_S = 7 * 86400
"""How long the broker keeps a release and its chunks."""
INTERRUPTED = 130
EPILOG = """exit codes: 0 done, and with --wait all devices got there; 1 it came to nothing, or not all of them did;
2 an option, a key or the bundle is wrong, and nothing was sent"""


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    form: Any = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG, formatter_class=form)
    folder = "models/face/2026.11.1, or models/face for the version that `current` names"
    parser.add_argument("bundle", type=Path, metavar="BUNDLE_DIR", help=folder)
    add_key_options(parser)
    parser.add_argument(
        "--trust", type=Path, metavar="FILE", help="trust document (default: trust.json beside the key)"
    )
    parser.add_argument("--dry-run", action="store_true", help="show what would be sent, and send nothing")
    parser.add_argument("--json", action="store_true", help="one JSON document at the end, on standard output")
    add_target_options(parser)
    add_release_options(parser)
    group = parser.add_argument_group("waiting").add_argument
    until = "stay until the devices run it (active; default), or until it has proved itself there (healthy)"
    group("--wait", nargs="?", const="active", choices=["active", "healthy"], help=until)
    group("--timeout", type=duration, default=duration("30min"), metavar="TIME", help="wait no longer (default: 30min)")
    add_broker_options(parser)
    return parser


def add_target_options(parser: argparse.ArgumentParser) -> None:
    """Which devices."""
    group = parser.add_argument_group("for which devices (default: the whole fleet)").add_argument
    group("--device", type=a_name, action="append", default=[], metavar="ID", help="only this one; may be given again")
    group("--group", type=a_name, action="append", default=[], metavar="NAME", help="only of this one; again: or that")
    group("--exclude", type=a_name, action="append", default=[], metavar="ID", help="not this one; may be given again")
    group("--hardware", action="append", default=[], metavar="NAME", help="only such ones, as aarch64; again: or such")
    group("--percent", type=percent, default=100.0, metavar="N", help="only so many of them")
    group("--salt", default="", metavar="TEXT", help="draws the share: with the same one, more percent add devices")


def add_release_options(parser: argparse.ArgumentParser) -> None:
    """What the release says besides."""
    group = parser.add_argument_group("release").add_argument
    group("--release", type=number, metavar="N", help="number (default: one above the highest that is known)")
    group("--notes", default="", metavar="TEXT", help="for people")
    group("--expires", type=expiry, metavar="WHEN", help="not installed after: 30d, or 2026-12-31 (UTC)")
    group("--spread", type=duration, metavar="TIME", help="devices begin at random within it, such as 10min")
    group("--health-window", type=duration, metavar="TIME", help="after it went live, until it counts as good")
    group("--min-frames", type=int, metavar="N", help="frames that the health window has to see")
    group("--max-infer-ms", type=float, metavar="MS", help="instead of the manifest's limit")
    group("--retry", action="store_true", help="also where the same bytes have failed before")


def duration(text: str) -> float:
    """Seconds of 30s, 10m, 10min, 12h or 7d."""
    try:
        return float(Duration.parse(re.sub(r"(?<=\d)m$", "min", text)))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{exc}, got {text!r}") from exc


def number(text: str) -> int:
    """Of a release: 1 or higher."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text!r}")
    return int(text)


def expiry(text: str) -> str:
    """RFC 3339 UTC of a day (its end), or of a time from now on; without a zone, times are UTC as well."""
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
        text += "T23:59:59Z"
    elif not re.match(r"\d{4}-", text):
        return rfc3339(time.time() + duration(text))
    try:
        at = datetime.fromisoformat(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"expected 30d or a date such as 2026-12-31, got {text!r}") from exc
    at_s = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if at_s <= time.time():
        raise argparse.ArgumentTypeError(f"expected a time to come, got {text!r}: no device would take the release")
    return rfc3339(at_s)


def percent(text: str) -> float:
    """Over 0, up to 100."""
    with contextlib.suppress(ValueError):
        if 0.0 < (value := float(text)) <= 100.0:
            return value
    raise argparse.ArgumentTypeError(f"expected more than 0 and at most 100, got {text!r}")


def rfc3339(unix_s: float) -> str:
    """UTC in whole seconds."""
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_release(args: argparse.Namespace, cargo: Cargo, fleet: str, number: int) -> Release:
    """The statement that is signed.

    Raises:
        UsageError: an option has a value that a release can't have; names it.
    """
    given = {"health_window_s": args.health_window, "min_frames": args.min_frames}
    statement = {
        "fleet": fleet,
        "model": cargo.manifest.name,
        "release": number,
        "version": cargo.manifest.version,
        "notes": args.notes,
        "created": rfc3339(time.time()),
        "expires": args.expires,
        "targets": {
            "devices": args.device,
            "groups": args.group,
            "exclude": args.exclude,
            "hardware": args.hardware,
            "percent": args.percent,
            "salt": args.salt,
        },
        "archive": cargo.archive,
        "acceptance": Acceptance(max_infer_ms=args.max_infer_ms),
        "activation": {name: value for name, value in given.items() if value is not None},
        "spread_s": args.spread or 0.0,
        "retry": args.retry,
    }
    try:
        return msgspec.convert(msgspec.to_builtins(statement), Release)
    except msgspec.ValidationError as exc:
        raise UsageError(f"a release can't say that: {exc}") from exc


def load_keys(args: argparse.Namespace) -> Authority:
    """Open the keys and the trust document.

    Raises:
        UsageError: they can't be used.
    """
    passphrase = passphrase_reader(args.passphrase_file)
    beside = (Path(key).parent / "trust.json" for key in args.key if Path(key).is_file())
    try:
        signers = [load_signer(key, passphrase) for key in args.key]
    except OperatorError as exc:
        raise UsageError(str(exc)) from exc
    return load_authority(args.trust or next(beside, Path("trust.json")), signers)


def push(args: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Do it; gives what came of it, as --json says it."""
    authority = load_keys(args)
    trust = authority.trust
    with tempfile.TemporaryFile() as file:
        cargo = pack(find_bundle(args.bundle), file)
        model = cargo.manifest.name
        topics = Topics(args.prefix, "+")
        if args.dry_run and args.release:  # all is known
            release = make_release(args, cargo, trust.document.fleet, args.release)
            return show_release(release, cargo, seal(release, authority), console, in_full=True)
        with connect(args, console.print) as link:
            fleet = look_around(link, topics, model, trust)
            chosen = choose_number(fleet, trust, model, args.release, tuple(args.exclude))
            tell_fleet(fleet, model, console)
            release = make_release(args, cargo, trust.document.fleet, chosen)
            envelope = seal(release, authority)
            told = show_release(release, cargo, envelope, console, in_full=args.dry_run)
            if args.dry_run:
                return told
            told |= upload(link, topics, cargo, console)
            check_alone(link, topics, cargo, fleet.released, trust)
            link.publish_retained(topics.release(model), envelope, EXPIRY_S)
            link.confirm()
            console.print(f"release {chosen} of {model} lies on the broker, for {EXPIRY_S // 86400} days")
            told["sent"] = True
            if args.wait:
                told |= watch(link, Rollout(release, topics, args.wait, fleet.states), args.timeout, console)
    return told


def tell_fleet(fleet: Fleet, model: str, console: Console) -> None:
    """What was found on the broker, where it may be not what the operator thinks."""
    if fleet.doubt:
        console.print(f"note: {fleet.doubt}")
    if not fleet.states:
        console.print(
            f"note: no device is to be seen that runs {model}; see --prefix, and the access list (read devices/#)"
        )


def upload(link: OperatorLink, topics: Topics, cargo: Cargo, console: Console) -> dict[str, Any]:
    """Send the chunks, and wait until the broker has them all. They are sent also if they lie there: for seven days
    more, so that a release to more devices finds them."""
    started_s = time.monotonic()
    try:
        with upload_bar(console, cargo.total_bytes) as sent:
            for sha256, index, chunk in cargo.chunks():
                link.publish_retained(topics.chunk(sha256, index), chunk, EXPIRY_S)
                sent(len(chunk))
            link.confirm()
    except KeyboardInterrupt:
        console.print("interrupted: nothing was released; tools/retire.py takes away what was sent")
        raise
    return {"upload_s": round(time.monotonic() - started_s, 3)}


def check_alone(link: OperatorLink, topics: Topics, cargo: Cargo, released: int, trust: Trust) -> None:
    """An upload takes minutes: see that nobody else released the same model meanwhile, or took the chunks away.

    Raises:
        OperatorError: somebody did; nothing is released.
    """
    model = cargo.manifest.name
    now = look_around(link, topics, model, trust).released
    if now > released:
        raise OperatorError(
            f"somebody else pushed release {now} of {model} during the upload: nothing was released; see what it is, "
            "and push again"
        )
    first = [topics.chunk(sha256, 0) for sha256 in (cargo.archive.chunk_list_sha256, cargo.archive.sha256)]
    if len(dict(link.retained(first, len(first)))) < len(first):
        raise OperatorError(
            "somebody took away the chunks during the upload, with tools/retire.py perhaps: nothing was released; "
            "push again"
        )


def watch(link: OperatorLink, rollout: Rollout, timeout_s: float, console: Console) -> dict[str, Any]:
    """Stay until the devices have come to an end."""
    interrupted = False
    with RolloutView(console) as view:
        try:
            rollout.follow(link, timeout_s, view.show)
        except KeyboardInterrupt:
            interrupted = True
        view.end(rollout)
    if interrupted:
        console.print("interrupted: the devices go on without this tool")
    elif not rollout.is_over():
        console.print(f"not all within {timeout_s:g} s; the devices go on without this tool")
    devices = {s.device: msgspec.to_builtins(s) for s in rollout.standings()}
    return {"waited_for": rollout.goal, "interrupted": interrupted, "devices": devices, "ok": rollout.is_reached()}


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = make_parser().parse_args(arguments)
    console = Console(stderr=args.json, highlight=False, soft_wrap=True, markup=False)
    try:
        told = push(args, console)
    except (OperatorError, OSError) as exc:
        print(f"push_model: {exc}", file=sys.stderr)
        return getattr(exc, "exit_code", 1)
    except KeyboardInterrupt:
        return INTERRUPTED
    if args.json:
        print(json.dumps(told, indent=2))
    return INTERRUPTED if told.get("interrupted") else 0 if told.get("ok", True) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
