"""How a recording is read, as the options of a tool say."""

import argparse
import math
from pathlib import Path

from agent.config import CsvSource


def positive(text: str) -> float:
    """A number over 0, for argparse. Raises ValueError."""
    number = float(text)
    if not 0.0 < number < math.inf:
        raise ValueError(text)
    return number


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Options that say how a CSV file is read."""
    parser.add_argument("--rate-hz", type=positive, metavar="HZ", help="of the rows, for files without a time column")
    parser.add_argument("--time-column", metavar="NAME", help="header of the column with the time")
    parser.add_argument("--delimiter", default=",", help="between columns (default: %(default)s)")


def csv_source(path: Path, options: argparse.Namespace, default_rate_hz: float | None = None) -> CsvSource:
    """How a recording is read, as these options say."""
    rate_hz = options.rate_hz or default_rate_hz or 1.0
    return CsvSource(path=str(path), rate_hz=rate_hz, time_column=options.time_column, delimiter=options.delimiter)
