"""The card of a data set: what is in it, what was left out, and what one should know of it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from tools.picture_set import INDEX, SPLITS, Entry

RARE_SHARE = 0.1
"""A class with fewer pictures than this share of the largest class is told of."""
SHOWN = 5
"""Broken pictures that are named on the screen; the card names no more than ten times as many."""


@dataclass
class LeftOut:
    """What is not in the set, and why."""

    broken: list[str] = field(default_factory=list)
    duplicates: int = 0
    contradicting: int = 0
    """Those that are there under two labels, or more."""
    alike: int = 0
    """Pictures that look like another of their class."""
    too_many: int = 0
    """For the balance of classes."""


def balance(entries: Iterable[Entry]) -> tuple[list[str], list[str]]:
    """A table of samples by class and split, and what one should know of it: lines each."""
    counts = Counter((one.label, one.split) for one in entries)
    labels = sorted({label for label, _ in counts})
    totals = {label: sum(counts[label, split] for split in SPLITS) for label in labels}
    table = [f"| class | {' | '.join(SPLITS)} | all |", "|---|" + "---:|" * (len(SPLITS) + 1)]
    for label in labels:
        row = [*(counts[label, split] for split in SPLITS), totals[label]]
        table.append(f"| {label} | {' | '.join(map(str, row))} |")
    warnings = [
        f"class {label} has nothing in split {split}"
        for label in labels
        for split in SPLITS
        if not counts[label, split]
    ]
    most = max(totals.values(), default=0)
    warnings += [
        f"class {label} is rare: it has {total}, the largest class {most}"
        for label, total in totals.items()
        if total < RARE_SHARE * most
    ]
    return table, warnings


def card(title: str, licence: str, how: str, entries: Sequence[Entry], left_out: LeftOut, sha256: str) -> str:
    """README.md of the set."""
    table, warnings = balance(entries)
    broken = left_out.broken[: 10 * SHOWN]
    lines = [
        f"# {title}",
        "",
        f"{len(entries)} {noun(entries)} of {len({one.source for one in entries})} sources. Licence: {licence}.",
        f"Made by `{how}`. SHA-256 of {INDEX}: `{sha256}`.",
        "",
        *table,
        "",
        f"Left out: {told(left_out)}.",
        *(f"- broken: {name}" for name in broken),
        *(["", "To know:", *(f"- {warning}" for warning in warnings)] if warnings else []),
    ]
    return "\n".join(lines) + "\n"


def told(left_out: LeftOut) -> str:
    """In words."""
    counts = {
        "broken": len(left_out.broken),
        "duplicates": left_out.duplicates,
        "under two labels": left_out.contradicting,
        "that look like another": left_out.alike,
        "too many of their class": left_out.too_many,
    }
    return ", ".join(f"{count} {what}" for what, count in counts.items())


def noun(entries: Sequence[Entry]) -> str:
    """What the set is made of."""
    return "windows" if entries and entries[0].path.endswith(".npy") else "pictures"
