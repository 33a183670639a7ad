"""What tools/optimize.py shows: the candidates as a table and as a picture, and what threads would bring."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.runtime.files import write_atomic
from tools.budget import Budget, Candidate, loss, on_front, over_budget, worst_class
from tools.timing import Parallel

FIELD_PX, EDGE_PX = 460, 64
"""Width and height of a field with axes, and what is around it."""
BLACK, LIGHT, GREEN, GRAY, RED = (0, 0, 0), (225, 225, 225), (60, 140, 30), (150, 150, 150), (40, 40, 200)
FONT, FONT_SCALE, LINE_PX = cv2.FONT_HERSHEY_SIMPLEX, 0.4, 13
X_STEP, Y_LINES = 0.25, 5

Color = tuple[int, int, int]
Picture = NDArray[np.uint8]


# --- tables


def candidate_table(candidates: Sequence[Candidate], labels: Sequence[str], budget: Budget) -> list[str]:
    """A line for each, the float model first; `*`: no other is as good in all and better in something (Pareto)."""
    whole = candidates[0]
    width = max(len(one.name) for one in candidates)
    heads = f"{'bytes':>9} {'size':>5} {'zipped':>7} {'ms':>7} {'time':>5} {'F1':>7} {'loss':>8}"
    lines = [f"  {'':{width}} {heads}  worst class  class that loses most"]
    for one in candidates:
        found = loss(whole.confusion, one.confusion, labels)
        sizes = f"{one.size_bytes:9d} {one.size_bytes / whole.size_bytes:5.2f} {one.zipped_bytes:7d}"
        quality = f"{one.infer_ms:7.3f} {one.time_ratio:5.2f} {one.confusion.macro[2]:7.4f} {found.f1:8.4f}"
        label, f1 = worst_class(one.confusion, labels)
        worst = f"{label:.10}: {f1:.4f}"
        most = f"{found.label}: {found.one_class:.4f}" if found.one_class > 0 else ""
        mark = "*" if on_front(one, candidates) else " "
        over = "  over the budget" if over_budget(found, budget) else ""
        lines.append(f"{mark} {one.name:{width}} {sizes} {quality}  {worst:11}  {most}{over}".rstrip())
    return lines


def parallel_table(found: Parallel) -> list[str]:
    """What threads, pipelines and kept results would bring the model that was chosen."""
    lines = [
        f"threads {threads}: {turns.ms:.3f} ms, {found.speedup(threads):.2f} times as fast as one"
        for threads, turns in found.by_threads.items()
    ]
    lines.append(f"recommended: threads {found.threads}")
    if found.two_pipelines is not None:
        lines.append(f"two pipelines at once: {found.two_pipelines:.2f} times the inferences of one")
    pays = (
        f"to keep results would pay if over {found.repeats:.0%} of them were the same as an earlier one"
        if found.repeats < 1
        else "to keep results would never pay"
    )
    lines.append(f"digest of a frame: {found.hash_ms:.3f} ms, {found.repeats:.2f} of an inference: {pays}")
    return lines


# --- picture


def draw_candidates(path: Path, candidates: Sequence[Candidate], labels: Sequence[str], budget: Budget) -> None:
    """A PNG: F1 over size, and over time, both as shares of the float model's.

    Those on the front are green, others gray, those over the budget red and hollow; below the line the mean is over the
    budget.

    Raises:
        OSError: it can't be written.
    """
    whole = candidates[0]
    side = FIELD_PX + 2 * EDGE_PX
    picture: Picture = np.full((side, 2 * side, 3), 255, np.uint8)
    f1 = [one.confusion.macro[2] for one in candidates]
    least = whole.confusion.macro[2] - budget.f1
    # One that is far off would press all others into a line: it lies on the edge.
    low, high = max(min(*f1, least), least - 3 * max(budget.f1, 0.001)), max(f1)
    for number, what in enumerate(("size", "time")):
        across = [one.size_bytes / whole.size_bytes if what == "size" else one.time_ratio for one in candidates]
        field = _Field(picture, number * side, np.ceil(max(across) / X_STEP + 0.2) * X_STEP, low, high)
        field.axes(f"{what}, share of float", "F1 (macro), split validation")
        field.across(least, RED)
        for one, x, y in zip(candidates, across, f1, strict=True):
            is_over = over_budget(loss(whole.confusion, one.confusion, labels), budget) is not None
            color = RED if is_over else GREEN if on_front(one, candidates) else GRAY
            field.dot(one.name, x, y, color, 2 if is_over else cv2.FILLED)
    _, data = cv2.imencode(".png", picture)
    write_atomic(path, data.tobytes(), mode=0o644)


class _Field:
    """Axes in a part of a picture."""

    def __init__(self, picture: Picture, left_px: int, right: float, low: float, high: float) -> None:
        self._picture, self._left_px, self._right = picture, left_px, right
        margin = max(0.1 * (high - low), 1e-4)
        self._low, self._high = low - margin, high + margin
        self._taken: list[tuple[int, int, int]] = []

    def axes(self, across: str, up: str) -> None:
        for x in np.arange(0.0, self._right + X_STEP / 2, X_STEP).tolist():
            self._line((x, self._low), (x, self._high), LIGHT)
            self._write(f"{x:.2f}", self._at(x, 0.0)[0] - 12, EDGE_PX + FIELD_PX + 18)
        for y in np.linspace(self._low, self._high, Y_LINES).tolist():
            self.across(y, LIGHT)
            self._write(f"{y:.4f}", self._left_px + 10, self._at(0.0, y)[1] + 4)
        self._write(across, self._left_px + EDGE_PX, EDGE_PX + FIELD_PX + 42)
        self._write(up, self._left_px + 10, EDGE_PX - 24)

    def across(self, y: float, color: Color) -> None:
        """A line from left to right."""
        self._line((0.0, y), (self._right, y), color)

    def dot(self, name: str, x: float, y: float, color: Color, thickness_px: int) -> None:
        at = self._at(x, y)
        cv2.circle(self._picture, at, 5, color, thickness_px, cv2.LINE_AA)
        column, row = at[0] + 9, at[1] + 4
        right = column + cv2.getTextSize(name, FONT, FONT_SCALE, 1)[0][0]
        while any(abs(row - y) < LINE_PX and column < end and start < right for start, end, y in self._taken):
            row += LINE_PX
        self._taken.append((column, right, row))
        self._write(name, column, row, color)

    def _at(self, x: float, y: float) -> tuple[int, int]:
        up = min(1.0, max(0.0, (y - self._low) / (self._high - self._low)))
        return self._left_px + EDGE_PX + round(x / self._right * FIELD_PX), EDGE_PX + round((1 - up) * FIELD_PX)

    def _line(self, start: tuple[float, float], end: tuple[float, float], color: Color) -> None:
        cv2.line(self._picture, self._at(*start), self._at(*end), color, 1, cv2.LINE_AA)

    def _write(self, text: str, x: int, y: int, ink: Color = BLACK) -> None:
        cv2.putText(self._picture, text, (x, y), FONT, FONT_SCALE, ink, 1, cv2.LINE_AA)
