"""Readings: a number for each channel of a sensor, taken at one moment. From text and JSON, which may hold anything."""

import csv
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy as np

from agent.config import Places
from agent.values import Frame

MAX_COLUMNS = 1024
"""Of a line of CSV; the configuration's limit is the same."""

_MAX_VALUE = float(np.finfo(np.float32).max)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MAX_NUMBER_CHARS = 64

Parse: TypeAlias = Callable[[bytes], list[float] | None]
"""A line into the values of all channels, NaN where one is missing; None: there is nothing of them in it.

Raises BadReading when it is broken.
"""


class BadReading(ValueError):  # noqa: N818 - what it is: it never leaves this package
    """A line or message that is no reading; says what is wrong with it."""


def make_reading(
    values: Sequence[float],
    channels: tuple[str, ...],
    index: int,
    *,
    is_first: bool,
    captured_ns: int | None = None,
    position_ns: int | None = None,
) -> Frame:
    """A frame with one sample. `captured_ns` is on the monotonic clock; None: now."""
    now_ns = time.monotonic_ns()
    captured_ns = now_ns if captured_ns is None else captured_ns
    return Frame(
        np.array([values], np.float32),
        index,
        captured_ns,
        time.time_ns() - (now_ns - captured_ns),
        position_ns,
        channels=channels,
        is_first=is_first,
    )


def as_value(value: object) -> float:
    """What a value of JSON is as a number: true is 1, null is missing.

    Raises:
        BadReading: it is something else, or too large for float32.
    """
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        raise BadReading(f"expected a number, got {type(value).__name__}")
    if not abs(value) <= _MAX_VALUE:
        raise BadReading("the number is too large, or none")
    return float(value)


def parse_number(text: str) -> float:
    """A number in decimal notation; blanks around it don't matter, and nothing at all is a missing value.

    Raises:
        BadReading: it is something else.
    """
    text = text.strip()
    if not text:
        return math.nan
    if len(text) > _MAX_NUMBER_CHARS or not _NUMBER.fullmatch(text):
        raise BadReading(f"expected a number, got {text[:_MAX_NUMBER_CHARS]!r}")
    return as_value(float(text))


def split_csv(line: bytes, delimiter: str) -> list[str]:
    """The cells of a line, unquoted and without blanks around them.

    Raises:
        BadReading: it is not UTF-8, has over 1024 cells, or quotes that don't match.
    """
    try:
        cells = next(csv.reader([line.decode()], delimiter=delimiter, strict=True), [])
    except UnicodeDecodeError as exc:
        raise BadReading("not UTF-8") from exc
    except csv.Error as exc:
        raise BadReading(f"not CSV: {exc}") from exc
    if len(cells) > MAX_COLUMNS:
        raise BadReading(f"{len(cells)} columns, expected at most {MAX_COLUMNS}")
    return [cell.strip() for cell in cells]


def named(channels: Places, *, by_column: bool) -> dict[str, str | int]:
    """Channels with their places; in a mere list a place is the name itself, or the number of the column."""
    if isinstance(channels, Mapping):
        return dict(channels)
    return {name: turn if by_column else name for turn, name in enumerate(channels)}


def json_parser(places: Mapping[str, str | int]) -> Parse:
    """Parses documents in JSON, in each of which a channel is at its path: keys and list indices with dots between.

    A value that is not there is missing; one that is no number, true, false or null makes all of it a broken one.
    """
    paths = {name: tuple(str(place).split(".")) if place != "" else () for name, place in places.items()}

    def parse(line: bytes) -> list[float] | None:
        try:
            document = msgspec.json.decode(line)
        except (msgspec.DecodeError, ValueError, RecursionError) as exc:  # ValueError: not UTF-8
            raise BadReading("not JSON") from exc
        values = [_value_at(document, path, name) for name, path in paths.items()]
        return None if all(map(math.isnan, values)) else values

    return parse


def _value_at(document: object, path: Iterable[str], name: str) -> float:
    """Missing where the path leads nowhere."""
    for step in path:
        if isinstance(document, dict):
            document = document.get(step)
        elif isinstance(document, list) and step.isascii() and step.isdigit() and int(step[:9]) < len(document):
            document = document[int(step[:9])]
        else:
            return math.nan
    try:
        return as_value(document)
    except BadReading as exc:
        raise BadReading(f"{name}: {exc}") from exc


def csv_parser(places: Mapping[str, str | int], delimiter: str) -> Parse:
    """Parses lines of numbers, in which a channel is in the column of its number, or under its header.

    With headers, what comes before a line that has them all is skipped, and such a line may come again.
    """
    headers = {place for place in places.values() if isinstance(place, str)}
    columns = {name: place for name, place in places.items() if isinstance(place, int)}

    def parse(line: bytes) -> list[float] | None:
        cells = split_csv(line, delimiter)
        if headers and headers <= set(cells):
            columns.update({name: cells.index(place) for name, place in places.items() if isinstance(place, str)})
            return None
        if len(columns) < len(places):
            return None
        if max(columns.values()) >= len(cells):
            raise BadReading(f"{len(cells)} columns, expected at least {max(columns.values()) + 1}")
        values = [parse_number(cells[columns[name]]) for name in places]
        return None if all(map(math.isnan, values)) else values

    return parse
