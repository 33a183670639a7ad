"""Models that give numbers, on the samples of a data set: how far off they are, and whether the mean would do as well.

A label is a number for each value that the model gives, with blanks between. Figures over all values are the mean of
those of each; of values in different units that says little.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from msgspec import UNSET

from agent.errors import DataSetError, ModelError
from agent.evaluation.classes import total
from agent.evaluation.common import Follow, Model, Report, latency, quietly, significant, thin
from agent.evaluation.measures import Numbers, deviations
from agent.evaluation.picture_set import INDEX, Entry, PictureSet, numbers
from agent.inference.protocol import Answer

MOST_POINTS = 2000
"""Of answers beside their labels that a report has, spread evenly: for drawing."""


class Judged(NamedTuple):
    """What a model says of labelled samples."""

    answers: Numbers
    """Samples x values, of those that it gave values for: one or more."""
    wanted: Numbers
    """The labels, of the same shape."""
    without_values: int
    """Samples that it gave NaN or inf for."""
    total_ms: list[float]
    """How long each took from sample to answer."""


def judge_numbers(model: Model, data: PictureSet, entries: Sequence[Entry], follow: Follow = quietly) -> Judged:
    """Ask the model about each sample.

    Raises:
        ModelError: the model failed, or gave not one finite number, or a sample can't be used.
        WorkerLost: its process died.
        DataSetError: a label is no numbers, or not as many as the model gives; or a sample is another than the index
            says.
    """
    wanted = [_label(data, entry) for entry in entries]
    answers: list[list[float]] = []
    total_ms: list[float] = []
    for entry in follow(entries, "samples"):
        answer = model.run(data.sample(entry), 0.0)
        values = values_of(answer)
        if values and not any(answers):  # the first: what does not fit is said before all others were looked at
            _check_counts(data, entries, wanted, len(values))
        answers.append(values)
        total_ms.append(total(answer))
    given = [place for place, values in enumerate(answers) if values]
    if not given:
        raise ModelError(f"{data.folder}: the model gave no finite number for any of {len(entries)} samples")
    return Judged(
        np.array([answers[place] for place in given]),
        np.array([wanted[place] for place in given]),
        len(entries) - len(given),
        total_ms,
    )


def values_of(answer: Answer) -> list[float]:
    """Empty: one of them was NaN or inf."""
    assert answer.found.values is not UNSET  # noqa: S101 - its decoder always says so
    return answer.found.values


def _label(data: PictureSet, entry: Entry) -> list[float]:
    found = numbers(entry.label)
    if found is None:
        text = "expected a number for each value that the model gives, such as '21.5' or '0.4 12'"
        raise DataSetError(f"{_place(data, entry)}: label: {text}; got {entry.label[:60]!r}")
    return found


def _check_counts(data: PictureSet, entries: Sequence[Entry], wanted: Sequence[Sequence[float]], count: int) -> None:
    for entry, label in zip(entries, wanted, strict=True):
        if len(label) != count:
            text = f"expected {count} numbers, one for each value that the model gives, with blanks between"
            raise DataSetError(f"{_place(data, entry)}: label: {text}; got {entry.label[:60]!r}")


def _place(data: PictureSet, entry: Entry) -> str:
    return f"{data.folder / INDEX}, row {data.entries.index(entry) + 2}"


def number_figures(judged: Judged, unit: str) -> Report:
    """All figures.

    Args:
        judged: what the model said.
        unit: what the samples are called.
    """
    figures = deviations(judged.answers, judged.wanted)
    points = thin(range(len(judged.wanted)), MOST_POINTS)
    return {
        unit: len(judged.wanted),
        "without_values": judged.without_values,
        **{name: significant(float(each.mean())) for name, each in figures.items()},
        **latency(judged.total_ms),
        "values": [
            {"value": number, **{name: significant(float(each[number])) for name, each in figures.items()}}
            for number in range(judged.wanted.shape[1])
        ],
        "points": {"labels": judged.wanted[points].tolist(), "answers": judged.answers[points].tolist()},
    }
