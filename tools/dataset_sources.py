"""Where tools/dataset.py gets samples from: folders of pictures, folders of recordings, MNIST."""

import argparse
import hashlib
import io
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import msgspec
import numpy as np

from agent.capture.readings import BadReading, split_csv
from agent.capture.table import Rows, lines_of
from agent.errors import SourceError
from agent.evaluation.series import read_series
from agent.inference.golden import MAX_PICTURE_BYTES
from agent.inference.series import window_of
from agent.manifest import SeriesInput
from tools.labelled import csv_source
from tools.mnist import digits
from tools.picture_set import DataSetError, is_label

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})


class Given(NamedTuple):
    """A sample before anyone has looked at it."""

    name: str
    """For the user."""
    data: bytes
    suffix: str
    label: str
    source: str
    split: str


class Splits(NamedTuple):
    """Which sources go into which split."""

    validation: float
    test: float
    """Shares of the sources that are not named."""
    validation_sources: Collection[str] = ()
    test_sources: Collection[str] = ()

    def of(self, source: str) -> str:
        """By its name; or by the digest of its name, so that it depends on nothing else."""
        if source in self.test_sources:
            return "test"
        if source in self.validation_sources:
            return "validation"
        place = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") / 2**64
        if place < self.test:
            return "test"
        return "validation" if place < self.test + self.validation else "train"


# --- pictures


def from_folder(folder: Path, splits: Splits) -> Iterator[Given]:
    """Raises DataSetError: there are fewer than two classes in it, or one has no usable name; OSError."""
    for label, source, path in _by_class(folder, SUFFIXES):
        with path.open("rb") as file:
            data = file.read(MAX_PICTURE_BYTES + 1)  # what is larger is left out as broken, when it is looked at
        name = str(path.relative_to(folder))
        yield Given(name, data, path.suffix.lower(), label, source, splits.of(source))


def _by_class(folder: Path, suffixes: Collection[str]) -> Iterator[tuple[str, str, Path]]:
    """Label, source and path of the files in the sub-folders. Raises DataSetError, OSError."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if len(classes) < 2:
        raise DataSetError(f"{folder}: expected a sub-folder for each class, two or more; found {len(classes)}")
    for home in classes:
        if not is_label(home.name):
            raise DataSetError(f"{folder}: expected a short line of text for a class's name, got {home.name!r}")
        for path in sorted(home.rglob("*")):
            if path.suffix.lower() in suffixes and not path.is_symlink() and path.is_file():
                inner = path.relative_to(home)
                yield home.name, inner.parts[0] if len(inner.parts) > 1 else f"{home.name}/{inner}", path


def from_mnist() -> Iterator[Given]:
    """As the package splits them. Raises MnistError."""
    for number, (split, label, picture) in enumerate(digits()):
        _, data = cv2.imencode(".png", picture)
        yield Given(f"{split} {number}", data.tobytes(), ".png", str(label), f"mnist-{split}", split)


# --- windows of sensor values


class Recording(NamedTuple):
    """A file, or a part of one, that shows one class."""

    name: str
    label: str
    source: str
    path: Path


def series_input(folder: Path, options: argparse.Namespace) -> SeriesInput:
    """How windows are cut, as the options say; channels are those of the first file if none are named.

    Raises:
        DataSetError: there is no file, or these are no options for windows.
        SourceError: the first file can't be read.
    """
    first = next((path for path in sorted(folder.rglob("*.csv")) if path.is_file()), None)
    if first is None:
        raise DataSetError(f"{folder}: not one .csv file in it")
    channels = tuple(name.strip() for name in options.channels.split(",")) if options.channels else None
    if channels is None:
        rows = Rows(csv_source(first, options))
        rows.close()
        channels = tuple(name for name in rows.channels if name != options.label_column)
    plain = {"channels": channels, "samples": options.samples, "stride": options.stride or options.samples}
    try:
        return msgspec.convert(plain | {"type": "series", "rate_hz": options.model_rate_hz}, SeriesInput)
    except msgspec.ValidationError as exc:
        raise DataSetError(f"{first}: {exc}") from exc


def from_series(folder: Path, spec: SeriesInput, options: argparse.Namespace, splits: Splits) -> Iterator[Given]:
    """The windows of all recordings, as the agent cuts them; each shows one class.

    Raises:
        DataSetError, SourceError: a file can't be used.
        OSError
    """
    window = window_of(spec)
    assert window is not None  # noqa: S101 - it is a series
    with tempfile.TemporaryDirectory(prefix="dataset-") as scratch:
        found = _whole_files(folder)
        if options.label_column is not None:
            found = _stretches(folder, options.label_column, options.delimiter, Path(scratch) / "stretch.csv")
        for one in found:
            for number, cut in enumerate(read_series(csv_source(one.path, options), window, None).windows):
                data = io.BytesIO()
                np.save(data, cut.samples)
                name = f"{one.name}, window {number + 1}"
                yield Given(name, data.getvalue(), ".npy", one.label, one.source, splits.of(one.source))


def _whole_files(folder: Path) -> Iterator[Recording]:
    for label, source, path in _by_class(folder, {".csv"}):
        yield Recording(str(path.relative_to(folder)), label, source, path)


def _stretches(folder: Path, column: str, delimiter: str, scratch: Path) -> Iterator[Recording]:
    """Rows that follow each other with the same label, written to `scratch` one after the other.

    A window never lies across a change, so that it shows one class. Rows without a label belong to none.
    """
    for path in sorted(folder.rglob("*.csv")):
        inner = path.relative_to(folder)
        source = inner.parts[0] if len(inner.parts) > 1 else inner.stem
        label, kept = "", list[bytes]()
        with path.open("rb") as file:
            lines = lines_of(file)
            header = next(lines, None) or b""
            place = _place(path, header, column, delimiter)
            for line in lines:
                now = _cell(line, place, delimiter)
                if now != label and kept:
                    scratch.write_bytes(b"".join([header, *kept]))
                    yield Recording(str(inner), label, source, scratch)
                    kept = []
                label = now
                if now and line is not None:
                    kept.append(line)
        if kept:
            scratch.write_bytes(b"".join([header, *kept]))
            yield Recording(str(inner), label, source, scratch)


def _place(path: Path, header: bytes, column: str, delimiter: str) -> int:
    try:
        cells = split_csv(header.removeprefix(b"\xef\xbb\xbf"), delimiter)
    except BadReading as exc:
        raise SourceError(f"{path}: {exc}") from exc
    if column not in cells:
        raise DataSetError(f"{path}: no column {column!r} in the header; it has: {', '.join(cells)[:200]}")
    return cells.index(column)


def _cell(line: bytes | None, place: int, delimiter: str) -> str:
    """The label of a row; none if the row is broken."""
    try:
        cells = split_csv(line or b"", delimiter)
    except BadReading:
        return ""
    return cells[place] if place < len(cells) and is_label(cells[place]) else ""
