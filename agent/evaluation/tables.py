"""What was measured, as people read it."""

from collections.abc import Iterator, Sequence

from agent.evaluation.common import Report

_MOST_SHOWN = 40
"""Classes whose confusion still fits on a screen, and steps; --json has all."""


def lines(report: Report) -> Iterator[str]:
    """A line for each figure; tables of classes, values, channels and steps; and which class was taken for which."""
    figures = {name: _text(value) for name, value in report.items() if not isinstance(value, list | dict)}
    if report.get("categories_left_out"):
        figures["categories_left_out"] = ", ".join(report["categories_left_out"])
    width = max(map(len, figures))
    for name, value in figures.items():
        yield f"{name.replace('_', ' '):{width}}  {value}"
    if "classes" in report:
        yield from ["", *class_table(report["classes"])]
    for name in ("values", "channels", "by_step"):
        if len(report.get(name, ())) in range(1, _MOST_SHOWN + 1):
            yield from ["", *row_table(report[name])]
    if "confusion" in report and len(report["labels"]) <= _MOST_SHOWN:
        yield from ["", "labels down, answers across", *confusion_table(report["confusion"], report["labels"])]


def _text(value: object) -> str:
    return "-" if value is None else str(value)


def class_table(rows: Sequence[Report]) -> list[str]:
    """A line for each class: its label, then its figures, which are shares."""
    shares = [{name: f"{v:.4f}" if isinstance(v, float) else v for name, v in row.items()} for row in rows]
    return row_table([{"class": row.pop("label"), **row} for row in shares])


def row_table(rows: Sequence[Report]) -> list[str]:
    """A line for each row: what it is of, then its figures."""
    names = list(rows[0])
    cells = [[name.replace("_", " ") for name in names], *([_text(row[name]) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(names))]
    return [
        "  ".join([f"{line[0]:{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]


def confusion_table(table: Sequence[Sequence[int]], labels: Sequence[str]) -> list[str]:
    """A line for each label, a column for each answer; the last, for no answer, only where there is one."""
    heads = [*labels, "none"] if any(row[-1] for row in table) else list(labels)
    shown = [row[: len(heads)] for row in table]
    width = max(len(str(value)) for row in (heads, *shown) for value in row)
    first = max(len("label"), *map(len, labels))
    text = [f"{'label':{first}}  " + " ".join(f"{head:>{width}}" for head in heads)]
    for label, row in zip(labels, shown, strict=True):
        text.append(f"{label:{first}}  " + " ".join(f"{value:{width}d}" for value in row))
    return text
