"""Models that say what comes next, on a recording: their steps x channels against the samples that really came.

Windows are those that the daemon would cut, at the model's rate and in the sensors' own units. Beside the model stand
two forecasts that need none: `persistence`, the last sample stays; `window_mean`, the mean of the window does. `skill`
is 1 - mae / persistence_mae: 0 is no better than persistence, 1 is always right.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agent.errors import DataSetError, ModelError
from agent.evaluation.classes import total
from agent.evaluation.common import Follow, Model, Report, latency, quietly, significant
from agent.evaluation.measures import Numbers
from agent.evaluation.regression import values_of
from agent.evaluation.series import Course
from agent.values import Samples, Window

FORECASTS = ("", "persistence_", "window_mean_")
"""The model, and those that stand beside it: how the names of their figures begin."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What forecasts are held against."""

    path: Path
    course: Course
    window: Window
    """As the model takes them."""
    channels: tuple[str, ...]
    """Those of the window's that are forecast, in the model's order."""

    @property
    def starts(self) -> list[int]:
        """Where the daemon's windows begin."""
        begins = self.course.begins
        ends = [*begins[1:], len(self.course.samples)]
        spans = zip(begins, ends, strict=True)
        return [at for begin, end in spans for at in range(begin, end - self.window.samples + 1, self.window.stride)]

    def past(self, start: int) -> Samples:
        """What the model gets, samples x channels of the window."""
        return self.course.samples[start : start + self.window.samples]

    def both(self, start: int, steps: int) -> Numbers:
        """The channels that are forecast, in the window and in what came after it; its end is the recording's."""
        places = [self.window.channels.index(name) for name in self.channels]
        return self.course.samples[start : start + self.window.samples + steps, places].astype(np.float64)

    def is_taken(self, start: int) -> bool:
        """The daemon hands this window to the model."""
        return self.window.keeps_missing or not bool(np.isnan(self.past(start)).any())

    def is_whole(self, start: int, steps: int) -> bool:
        """This window can be judged: its last sample and what came after it are there, and no gap is in between."""
        end = start + self.window.samples + steps
        return (
            end <= len(self.course.samples)
            and self.is_taken(start)
            and not self.course.is_after_gap[start + 1 : end].any()
            and not np.isnan(self.both(start, steps)[self.window.samples - 1 :]).any()
        )


class Errors(NamedTuple):
    """Means over all windows: FORECASTS x steps x channels, in the sensors' own units."""

    absolute: Numbers
    squares: Numbers
    windows: int
    without_values: int
    """Windows that the model gave NaN or inf for; they are in no mean."""
    total_ms: list[float]
    """How long each window took."""


def count_steps(model: Model, recording: Recording) -> int:
    """How many steps the model looks ahead.

    Raises:
        DataSetError: the recording has not one window.
        ModelError, WorkerLost: the model failed, or gave finite numbers for no window.
    """
    taken = list(filter(recording.is_taken, recording.starts))
    if not taken:
        samples = recording.window.samples
        raise DataSetError(f"{recording.path}: not one whole window of {samples} samples in it")
    for start in taken:
        if values := values_of(model.run(recording.past(start), 0.0)):
            return len(values) // len(recording.channels)
    raise ModelError(f"{recording.path}: the model gave no finite number for any of {len(taken)} windows")


def judge_forecasts(
    model: Model, recording: Recording, starts: Sequence[int], steps: int, follow: Follow = quietly
) -> Errors:
    """Ask the model about each of these windows, which are whole.

    Raises:
        ModelError, WorkerLost: the model failed, or gave finite numbers for no window.
    """
    sums = np.zeros((2, len(FORECASTS), steps, len(recording.channels)))
    total_ms: list[float] = []
    without_values = 0
    for start in follow(starts, "windows"):
        answer = model.run(recording.past(start), 0.0)
        total_ms.append(total(answer))
        if not (values := values_of(answer)):
            without_values += 1
            continue
        past, future = np.split(recording.both(start, steps), [recording.window.samples])
        naive = (np.broadcast_to(row, future.shape) for row in (past[-1], np.nanmean(past, axis=0)))
        errors = np.stack([np.reshape(values, future.shape), *naive]) - future
        sums += np.stack([np.abs(errors), errors**2])
    if not (count := len(starts) - without_values):
        raise ModelError(f"{recording.path}: the model gave no finite number for any of {len(starts)} windows")
    absolute, squares = sums / count
    return Errors(absolute, squares, count, without_values, total_ms)


def forecast_figures(model: Model, recording: Recording, limit: int | None, follow: Follow = quietly) -> Report:
    """All figures of a model that forecasts, on the first `limit` windows that can be judged.

    Raises:
        ModelError, WorkerLost: the model failed.
        DataSetError: there is no window that can be judged.
    """
    steps = count_steps(model, recording)
    whole = [start for start in recording.starts if recording.is_whole(start, steps)]
    if not whole:
        rows = recording.window.samples + steps
        raise DataSetError(f"{recording.path}: not once {rows} samples without a gap: a window and {steps} steps ahead")
    errors = judge_forecasts(model, recording, whole[:limit], steps, follow)
    by_channel = errors.absolute.mean(axis=1)
    rmse = np.sqrt(errors.squares.mean(axis=1))
    return {
        "windows": errors.windows,
        "windows_left_out": len(recording.starts) - len(whole),
        "without_values": errors.without_values,
        "rows_broken": recording.course.broken_rows,
        "recorded_s": round(recording.course.end_s, 2),
        "steps": steps,
        **_figures(by_channel.mean(axis=1), rmse.mean(axis=1)),
        **latency(errors.total_ms),
        "channels": [
            {"channel": name, **_figures(by_channel[:, place], rmse[:, place])}
            for place, name in enumerate(recording.channels)
        ],
        "by_step": _by_step(errors.absolute.mean(axis=2)),
        "by_step_of": {name: _by_step(errors.absolute[:, :, place]) for place, name in enumerate(recording.channels)},
    }


def _by_step(absolute: Numbers) -> list[Report]:
    """Of FORECASTS x steps, a row for each step, from 1."""
    return [{"step": number, **_figures(of_step)} for number, of_step in enumerate(absolute.T, start=1)]


def _figures(mae: Numbers, rmse: Numbers | None = None) -> Report:
    """Of all FORECASTS, and the skill; None where persistence is always right."""
    figures = {f"{name}mae": significant(value) for name, value in zip(FORECASTS, mae.tolist(), strict=True)}
    if rmse is not None:
        figures |= {f"{name}rmse": significant(value) for name, value in zip(FORECASTS, rmse.tolist(), strict=True)}
    return figures | {"skill": significant(1.0 - mae[0] / mae[1]) if mae[1] else None}
