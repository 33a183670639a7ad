"""What tools/evaluate.py draws, with OpenCV: who was taken for whom, precision over recall, confidence and accuracy,
answers over labels, errors by step ahead."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.errors import DataSetError
from agent.evaluation.forecasts import FORECASTS
from agent.runtime.files import write_atomic

MOST_CLASSES_DRAWN = 100
CELL_PX, MARGIN_PX = 48, 96

SIDE_PX, EDGE_PX, LEGEND_PX = 480, 56, 220
"""Of a plot with axes: width and height of the field, what is around it, and what is right of it for the legend."""
MOST_IN_LEGEND = 20
MOST_FIELDS = 20
"""Of values or channels, each in its own unit, one below the other: the first."""
BLACK, GRAY, LIGHT, BLUE = (0, 0, 0), (150, 150, 150), (225, 225, 225), (200, 150, 90)

Color = tuple[int, int, int]
Ends = tuple[float, float]


def draw_confusion(path: Path, table: Sequence[Sequence[int]], labels: Sequence[str]) -> None:
    """A PNG: labels down, answers across, the darker the more of a label's samples.

    Raises:
        DataSetError: there are too many classes for a picture.
        OSError: it can't be written.
    """
    if len(labels) > MOST_CLASSES_DRAWN:
        raise DataSetError(f"{path}: {len(labels)} classes; a picture shows {MOST_CLASSES_DRAWN} at most")
    side = MARGIN_PX + CELL_PX * len(labels)
    picture: NDArray[np.uint8] = np.full((side, side), 255, np.uint8)
    for row, label in enumerate(labels):
        top, total = MARGIN_PX + row * CELL_PX, max(1, sum(table[row]))
        _write(picture, label[:10], 4, top + CELL_PX // 2 + 4)
        _write(picture, label[:10], top + 4, MARGIN_PX - 8)
        for column in range(len(labels)):
            value, left = table[row][column], MARGIN_PX + column * CELL_PX
            share = value / total
            picture[top : top + CELL_PX - 1, left : left + CELL_PX - 1] = round(245 - 200 * share)
            if value:
                ink = (255, 255, 255) if share > 0.5 else BLACK
                _write(picture, str(value), left + 4, top + CELL_PX // 2 + 4, ink)
    _write(picture, "label", 4, MARGIN_PX - 8)
    _write(picture, "answer", MARGIN_PX, 20)
    _save(path, picture)


def draw_curves(path: Path, curves: Mapping[str, Any]) -> None:
    """A PNG: the highest precision at each recall or more, of each class and, in black, their mean.

    The legend names the classes with the lowest average precision first, for those are looked for.

    Raises:
        OSError: it can't be written.
    """
    plot = _Plot("recall", "precision")
    areas: Mapping[str, float] = curves["average_precision"]
    worst_first = sorted(areas, key=lambda label: areas[label])
    for number, label in enumerate(worst_first):
        color = _color(number, len(worst_first))
        plot.line(curves["recall"], curves["classes"][label], color)
        if number < MOST_IN_LEGEND:
            plot.legend(f"{areas[label]:.4f} {label}", color)
    if len(worst_first) > MOST_IN_LEGEND:
        plot.legend(f"and {len(worst_first) - MOST_IN_LEGEND} better ones", GRAY)
    if len(worst_first) > 1:
        plot.line(curves["recall"], curves["mean"], BLACK, 3)
        plot.legend(f"{np.mean(list(areas.values())):.4f} mean", BLACK)
    _save(path, plot.picture)


def draw_reliability(path: Path, bins: Sequence[Mapping[str, float]], error: float) -> None:
    """A PNG: how many answers of a confidence are right; on the diagonal, confidence means what it says. The strip
    below shows how many answers have it.

    Raises:
        OSError: it can't be written.
    """
    plot = _Plot("confidence", "accuracy")
    most = max(one["answers"] for one in bins)
    for one in bins:
        plot.bar(one["low"], one["low"] + 1 / 15, one["accuracy"], BLUE)
        plot.bar(one["low"], one["low"] + 1 / 15, 0.06 * one["answers"] / most, (90, 90, 90))
        plot.dot(one["confidence"], one["accuracy"])
    plot.line([0, 1], [0, 1], GRAY)
    plot.legend(f"expected error {error:.4f}", BLACK)
    plot.legend("accuracy", BLUE)
    plot.legend("share of answers", (90, 90, 90))
    plot.legend("confidence = accuracy", GRAY)
    _save(path, plot.picture)


def draw_scatter(path: Path, labels: Sequence[Sequence[float]], answers: Sequence[Sequence[float]]) -> None:
    """A PNG: answers over labels, a field for each value; on the diagonal, the model is right.

    Raises:
        OSError: it can't be written.
    """
    fields = []
    for number, (wanted, given) in enumerate(zip(np.transpose(labels), np.transpose(answers), strict=True)):
        ends = _ends(np.concatenate([wanted, given]))
        plot = _Plot("label", "answer", ends, ends)
        plot.line(ends, ends, GRAY)
        for x, y in zip(wanted.tolist(), given.tolist(), strict=True):
            plot.dot(x, y, BLUE)
        plot.legend(f"value {number}", BLUE)
        plot.legend("answer = label", GRAY)
        fields.append(plot.picture)
    _save(path, np.vstack(fields[:MOST_FIELDS]))


def draw_steps(path: Path, channels: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """A PNG: the mean absolute error of each step ahead, a field for each channel, beside the forecasts of no model.

    Raises:
        OSError: it can't be written.
    """
    fields = []
    for channel, rows in channels.items():
        steps = [row["step"] for row in rows]
        lines = {name: [row[f"{name}mae"] for row in rows] for name in FORECASTS}
        most = max(max(errors) for errors in lines.values())
        plot = _Plot("steps ahead", f"MAE of {channel}", (0, len(rows)), _ends([0.0, most]))
        for (name, errors), color in zip(lines.items(), (BLUE, BLACK, GRAY), strict=True):
            plot.line(steps, errors, color, 2)
            for x, y in zip(steps, errors, strict=True):
                plot.dot(x, y, color)
            plot.legend(name.replace("_", " ") or "model", color)
        fields.append(plot.picture)
    _save(path, np.vstack(fields[:MOST_FIELDS]))


def _ends(values: Sequence[float] | NDArray[np.float64]) -> Ends:
    """Of an axis that shows them all; apart, also where they are all the same."""
    low, high = float(np.min(values)), float(np.max(values))
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1.0), low + 0.5 * (abs(low) or 1.0))


class _Plot:
    """Axes go from 0 to 1, unless other ends are named."""

    def __init__(self, across: str, up: str, x: Ends = (0.0, 1.0), y: Ends = (0.0, 1.0)) -> None:
        self._x, self._y = x, y
        size = (SIDE_PX + 2 * EDGE_PX, SIDE_PX + 2 * EDGE_PX + LEGEND_PX, 3)
        self.picture: NDArray[np.uint8] = np.full(size, 255, np.uint8)
        self._named = 0
        for tenth in range(0, 11, 2):
            share = tenth / 10
            at_x, at_y = (low + share * (high - low) for low, high in (x, y))
            self.line([at_x, at_x], y, LIGHT)
            self.line(x, [at_y, at_y], LIGHT)
            left, top = self._at(at_x, at_y)
            _write(self.picture, f"{at_x:.3g}", left - 8, EDGE_PX + SIDE_PX + 18)
            _write(self.picture, f"{at_y:.3g}", EDGE_PX - 30 - 6 * max(0, len(f"{at_y:.3g}") - 4), top + 4)
        self.line([x[0], x[0], x[1]], [y[1], y[0], y[0]], BLACK)
        _write(self.picture, across, EDGE_PX + SIDE_PX // 2 - 30, EDGE_PX + SIDE_PX + 40)
        _write(self.picture, up, 8, EDGE_PX - 20)

    def line(self, x: Sequence[float], y: Sequence[float], color: Color, width_px: int = 1) -> None:
        points = np.array([self._at(a, b) for a, b in zip(x, y, strict=True)], np.int32)
        cv2.polylines(self.picture, [points], False, color, width_px, cv2.LINE_AA)

    def bar(self, left: float, right: float, height: float, color: Color) -> None:
        (x0, y0), (x1, y1) = self._at(left, 0.0), self._at(right, height)
        cv2.rectangle(self.picture, (x0 + 1, y1), (x1 - 1, y0), color, cv2.FILLED)

    def dot(self, x: float, y: float, color: Color = BLACK) -> None:
        cv2.circle(self.picture, self._at(x, y), 3, color, cv2.FILLED, cv2.LINE_AA)

    def legend(self, text: str, color: Color) -> None:
        x, y = EDGE_PX + SIDE_PX + 24, EDGE_PX + 14 + 20 * self._named
        cv2.rectangle(self.picture, (x, y - 8), (x + 14, y), color, cv2.FILLED)
        _write(self.picture, text[:32], x + 22, y)
        self._named += 1

    def _at(self, x: float, y: float) -> tuple[int, int]:
        across, up = ((at - low) / (high - low) for at, (low, high) in ((x, self._x), (y, self._y)))
        return EDGE_PX + round(across * SIDE_PX), EDGE_PX + round((1 - up) * SIDE_PX)


def _color(number: int, count: int) -> Color:
    hsv = np.array([[[round(179 * number / max(1, count)), 200, 190]]], np.uint8)
    blue, green, red = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def _write(picture: NDArray[np.uint8], text: str, x: int, y: int, ink: Color = BLACK) -> None:
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.4, ink, 1, cv2.LINE_AA)


def _save(path: Path, picture: NDArray[np.uint8]) -> None:
    _, data = cv2.imencode(".png", picture)
    write_atomic(path, data.tobytes(), mode=0o644)
