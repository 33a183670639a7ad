"""Take away what no release needs any more: chunks of models that lie on the broker.

Shows every blob with the release that needs it, and clears those that none does, after asking. What is left alone goes
by itself, seven days after it was sent.

    tools/retire.py --broker mqtts://me@broker.example
    tools/retire.py --release face --yes       the release of face, too, and what only it needs
"""

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402

from agent.errors import UpdateRefused  # noqa: E402
from agent.updates.envelope import unseal  # noqa: E402
from agent.wire.releases import CHUNK_BYTES, RELEASE_TYPE, Release  # noqa: E402
from agent.wire.topics import Topics  # noqa: E402
from tools.operator_link import OperatorLink, connect  # noqa: E402
from tools.operator_login import OperatorError, add_broker_options  # noqa: E402

_MAX_CHUNKS = 1 << 24
"""1 TiB: the largest archive that a release can name."""
_ASK_AT_ONCE = 16


@dataclass(frozen=True)
class Blob:
    """Chunks with one digest in their topics."""

    sha256: str
    chunks: int
    size_bytes: int
    needed_by: str | None
    """Such as `face 7`; None: no release."""


def find_releases(link: OperatorLink, topics: Topics) -> dict[str, Release]:
    """The retained releases, by model. Nobody vouches for them: at worst, one keeps a blob where it is.

    Raises:
        OperatorError: one can't be read, so that nobody knows what it needs.
    """
    found = {}
    for topic, payload in link.retained([topics.release("+")]):
        model = topics.release_of(topic)
        if model is None or topic == topics.trust():
            continue
        try:
            found[model] = msgspec.json.decode(unseal(payload, RELEASE_TYPE).payload, type=Release)
        except (UpdateRefused, msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
            raise OperatorError(f"{topic}: can't tell what it needs: {exc}; clear it with --release {model}") from exc
    return found


def find_blobs(link: OperatorLink, topics: Topics, releases: dict[str, Release]) -> list[Blob]:
    """All blobs that have a first chunk; payloads are not kept."""
    needed = {}
    for model, release in releases.items():
        archive, name = release.archive, f"{model} {release.release}"
        needed[archive.sha256] = (archive.chunks, archive.size_bytes, name)
        needed[archive.chunk_list_sha256] = (
            -(-archive.chunk_list_bytes // CHUNK_BYTES),
            archive.chunk_list_bytes,
            name,
        )
    first = {topic.split("/")[-2]: len(payload) for topic, payload in link.retained([f"{topics.prefix}/blobs/+/0"])}
    blobs = []
    for sha256, size_bytes in sorted(first.items()):
        if sha256 in needed:
            blobs.append(Blob(sha256, *needed[sha256]))
        else:
            blobs.append(Blob(sha256, *measure(link, topics, sha256, size_bytes), None))
    return blobs


def measure(link: OperatorLink, topics: Topics, sha256: str, first_bytes: int) -> tuple[int, int]:
    """How many chunks there are, and bytes: asks for a few of them, ever closer to the last."""
    last, last_bytes, missing = 0, first_bytes, _MAX_CHUNKS
    asked = [2**n for n in range(24)]
    while missing - last > 1:
        wanted = [topics.chunk(sha256, index) for index in asked]
        there = {int(topic.rsplit("/", 1)[1]): len(data) for topic, data in link.retained(wanted, len(wanted))}
        if there:
            last = max(there)
            last_bytes = there[last]
        missing = min((index for index in asked if index > last), default=missing)
        step = max(1, (missing - last) // _ASK_AT_ONCE)
        asked = list(range(last + step, missing, step))
    return last + 1, last * CHUNK_BYTES + last_bytes


def clear(link: OperatorLink, topics: Topics, blobs: Sequence[Blob]) -> None:
    """The first chunk goes last: what is interrupted is found the next time."""
    for blob in blobs:
        for index in reversed(range(blob.chunks)):
            link.publish_retained(topics.chunk(blob.sha256, index), b"")
    link.confirm()


def clear_idle(link: OperatorLink, topics: Topics, idle: Sequence[Blob]) -> None:
    """Clear what still no release needs: the answer may have taken its time, and somebody may have pushed meanwhile.

    Raises:
        OperatorError: as `find_releases`.
    """
    needed = set()
    for release in find_releases(link, topics).values():
        needed |= {release.archive.sha256, release.archive.chunk_list_sha256}
    for blob in idle:
        if blob.sha256 in needed:
            print(f"{blob.sha256}  is needed now: a release of it came meanwhile")
    left = [blob for blob in idle if blob.sha256 not in needed]
    clear(link, topics, left)
    print(f"cleared {len(left)} blobs, {sum(blob.size_bytes for blob in left)} bytes")


def show(blobs: Sequence[Blob], releases: dict[str, Release]) -> None:
    """What lies there, and what is missing."""
    for blob in blobs:
        print(f"{blob.sha256}  {blob.chunks:6} chunks {blob.size_bytes:12} bytes  {blob.needed_by or 'not needed'}")
    there = {blob.sha256 for blob in blobs}
    for model, release in releases.items():
        if not {release.archive.sha256, release.archive.chunk_list_sha256} <= there:
            print(f"note: release {release.release} of {model} lies there without its chunks: push it again")


def is_agreed(question: str) -> bool:
    """Ask on the terminal; without one, no."""
    if not sys.stdin.isatty():
        print(f"{question} --yes does it")
        return False
    return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def retire(args: argparse.Namespace) -> None:
    """Do it."""
    topics = Topics(args.prefix, "+")
    with connect(args, print) as link:
        if args.release and not dict(link.retained([topics.release(args.release)], 1)):
            raise OperatorError(f"no release of {args.release} lies on the broker; see --prefix")
        if args.release and (args.yes or is_agreed(f"Clear the release of {args.release}?")):
            link.publish_retained(topics.release(args.release), b"")
            link.confirm()
        releases = find_releases(link, topics)
        blobs = find_blobs(link, topics, releases)
        show(blobs, releases)
        idle = [blob for blob in blobs if blob.needed_by is None]
        size = sum(blob.size_bytes for blob in idle)
        if not idle:
            print("nothing to clear")
        elif args.yes or is_agreed(f"Clear {len(idle)} blobs, {size} bytes?"):
            clear_idle(link, topics, idle)


def model_name(text: str) -> str:
    """A model, as in a topic."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", text):
        raise argparse.ArgumentTypeError(f"expected the name of a model, got {text!r}")
    return text


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    form: Any = argparse.RawDescriptionHelpFormatter
    epilog = "exit codes: 0 done, or nothing was to be done; 1 the broker did not do it; 2 an option is wrong"
    parser = argparse.ArgumentParser(description=__doc__, epilog=epilog, formatter_class=form)
    parser.add_argument("--release", type=model_name, metavar="MODEL", help="clear the release of this model, too")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    add_broker_options(parser)
    args = parser.parse_args(arguments)
    try:
        retire(args)
    except (OperatorError, OSError) as exc:
        print(f"retire: {exc}", file=sys.stderr)
        return getattr(exc, "exit_code", 1)
    except (KeyboardInterrupt, EOFError):
        print("interrupted: what is left is found the next time", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
