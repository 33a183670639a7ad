"""The data sets that tools make and learn from: `agent.evaluation.picture_set` reads them, on a device too; here they
are written. Both are one subject: tools import all of it from here."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from agent.errors import DataSetError
from agent.evaluation.picture_set import (
    INDEX,
    SERIES,
    SPLITS,
    Entry,
    PictureSet,
    digest,
    is_label,
    load_set,
)
from agent.runtime.files import write_atomic

__all__ = [
    "CARD",
    "INDEX",
    "SERIES",
    "SPLITS",
    "DataSetError",
    "Entry",
    "PictureSet",
    "digest",
    "is_label",
    "load_set",
    "write_index",
]

CARD = "README.md"


def write_index(folder: Path, entries: Iterable[Entry]) -> str:
    """Returns its digest. Raises OSError."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(Entry._fields)
    rows.writerows(entries)
    data = text.getvalue().encode()
    write_atomic(folder / INDEX, data, mode=0o644)
    return digest(data)
