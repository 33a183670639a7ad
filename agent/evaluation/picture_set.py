"""A data set of labelled samples: a folder with an index, the samples, and a card.

    index.csv    path,label,source,split,sha256: a line for each sample
    README.md    what it is, how it was made, under which licence, how many of what
    pictures/    as they came; or
    windows/     of sensor readings or sound (`.npy`, float32, samples x channels), as golden samples are, and
    series.json  how they were cut: the manifest's `input` for a model that is to learn them

The index says all that a tool needs; the digest of the index stands for the whole set. tools/dataset.py makes one.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import msgspec

from agent.capture.readings import parse_number
from agent.errors import DataSetError
from agent.inference.golden import load_input, load_picture
from agent.manifest import SeriesInput
from agent.values import Image, Samples

INDEX, SERIES = "index.csv", "series.json"
SPLITS = ("train", "validation", "test")
MAX_INDEX_BYTES = 256 << 20
MAX_SERIES_BYTES = 1 << 20
MAX_LABEL_CHARACTERS = 100


class Entry(NamedTuple):
    """A line of the index."""

    path: str
    """Below the folder, with slashes."""
    label: str
    """A class; or a number for each value that a model gives, with blanks between."""
    source: str
    """Where it comes from: a camera, a day, a person. All pictures of one source are in one split."""
    split: str
    """One of SPLITS."""
    sha256: str
    """Of the file, in hex."""


@dataclass(frozen=True, slots=True)
class PictureSet:
    """A data set whose index is sound; its samples are looked at when they are read."""

    folder: Path
    entries: tuple[Entry, ...]
    sha256: str
    """Of the index."""
    series: SeriesInput | None = None
    """How its windows were cut; None: it is a set of pictures."""

    @property
    def labels(self) -> tuple[str, ...]:
        """All classes, in the order of their names."""
        return tuple(sorted({one.label for one in self.entries}))

    def of(self, split: str) -> list[Entry]:
        """The pictures of a split. Raises DataSetError: there is none."""
        found = [one for one in self.entries if one.split == split]
        if not found:
            raise DataSetError(f"{self.folder}: no picture is in split {split}: make the set anew with more sources")
        return found

    def picture(self, entry: Entry) -> Image:
        """H x W x 3 BGR, as the agent reads it.

        Raises:
            ModelError: it is missing, too large or no picture.
            DataSetError: it is another than when the index was written.
        """
        path = self.folder / entry.path
        image = load_picture(path)
        _check_digest(path, entry)
        return image

    def sample(self, entry: Entry) -> Image | Samples:
        """What a model gets: a picture, or a window of samples x channels, float32. Raises as `picture` does."""
        path = self.folder / entry.path
        data = load_input(path)
        _check_digest(path, entry)
        return data


def _check_digest(path: Path, entry: Entry) -> None:
    if digest(path.read_bytes()) != entry.sha256:
        kind = "window" if path.suffix == ".npy" else "picture"
        raise DataSetError(f"{path}: not the {kind} that {INDEX} names: make the set anew")


def digest(data: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()


def is_label(text: str) -> bool:
    """A label is a line of `labels.txt`: short, printable, without blanks around it."""
    return 0 < len(text) <= MAX_LABEL_CHARACTERS and text.isprintable() and text == text.strip()


def numbers(label: str) -> list[float] | None:
    """Those that a label consists of, with blanks between; None: it is something else."""
    try:
        return [parse_number(word) for word in label.split()] or None
    except ValueError:
        return None


def load_set(folder: Path) -> PictureSet:
    """Read and check the index. Raises DataSetError."""
    path = folder / INDEX
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise DataSetError(f"{path}: larger than {MAX_INDEX_BYTES >> 20} MiB")
        data = path.read_bytes()
        rows = list(csv.reader(io.StringIO(data.decode("utf-8"))))
    except OSError as exc:
        mend = "tools/dataset.py makes a data set of a folder of pictures"
        raise DataSetError(f"{path}: {(exc.strerror or str(exc)).lower()}; {mend}") from exc
    except (UnicodeDecodeError, csv.Error) as exc:
        raise DataSetError(f"{path}: expected CSV in UTF-8") from exc
    if not rows or tuple(rows[0]) != Entry._fields:
        raise DataSetError(f"{path}: expected the header {','.join(Entry._fields)}")
    entries = tuple(_parse(path, number, row) for number, row in enumerate(rows[1:], start=2))
    _check_splits(path, entries)
    return PictureSet(folder, entries, digest(data), _load_series(folder / SERIES))


def _load_series(path: Path) -> SeriesInput | None:
    try:
        with path.open("rb") as file:
            return msgspec.json.decode(file.read(MAX_SERIES_BYTES), type=SeriesInput)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise DataSetError(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc
    except msgspec.MsgspecError as exc:
        raise DataSetError(f"{path}: {str(exc)[:300]}; tools/dataset.py writes this file") from exc


def _parse(path: Path, number: int, row: Sequence[str]) -> Entry:
    if len(row) != len(Entry._fields):
        raise DataSetError(f"{path}, row {number}: expected {len(Entry._fields)} columns, got {len(row)}")
    entry = Entry(*row)
    inside = PurePosixPath(entry.path)
    problems = {
        "path: expected one inside the folder": inside.is_absolute() or ".." in inside.parts or not inside.parts,
        "label: expected a short line of text, or numbers": not is_label(entry.label) and not numbers(entry.label),
        f"split: expected one of {', '.join(SPLITS)}": entry.split not in SPLITS,
        "sha256: expected 64 hex digits": not re.fullmatch(r"[0-9a-f]{64}", entry.sha256),
    }
    for problem, is_there in problems.items():
        if is_there:
            raise DataSetError(f"{path}, row {number}: {problem}")
    return entry


def _check_splits(path: Path, entries: Iterable[Entry]) -> None:
    """What comes from one place looks alike: in two splits, it would flatter the model."""
    split_of: dict[str, str] = {}
    for one in entries:
        if split_of.setdefault(one.source, one.split) != one.split:
            raise DataSetError(f"{path}: source {one.source} is in {split_of[one.source]} and in {one.split}")
