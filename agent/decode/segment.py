"""Maps of confidences: which class covers how much of the frame, and where."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from agent.decode.boxes import ToFrame
from agent.decode.confidence import logit, quietly, raw_floor, single
from agent.decode.outputs import Outputs, label_of
from agent.manifest import SegmentDecoder
from agent.values import Found, Segment, Tensor, TensorInfo, Transform, Xyxy


class Segments:
    """Decodes 1 x H x W x classes (a cell belongs to its best class), or 1 x H x W (x 1) (it belongs, or it does not).

    Nothing is resized: cells are counted on the map, without those that lie over the letterbox's border, and only the
    box around them is mapped to the frame. What the model did not see of the frame (crop) counts as not covered.
    """

    def __init__(
        self, spec: SegmentDecoder, labels: Sequence[str], input_wh: tuple[int, int], outputs: Sequence[TensorInfo]
    ) -> None:
        """
        Raises:
            ModelError: no output, or more than one, is such a map, with one class for each label.
        """
        known = Outputs("segment", outputs)
        expected = f"one map (1, height, width, {len(labels) or 'classes'})"
        self._place = known.only(lambda info: _classes(info) > 0 and len(labels) in (0, _classes(info)), expected)
        info = known.infos[self._place]
        self._classes = _classes(info)
        threshold = single(spec.threshold)
        self._at_least = raw_floor(info, logit(threshold) if spec.softmax else threshold)
        self._map_wh = (info.shape[2], info.shape[1])
        self._input_wh = input_wh
        self._spec = spec
        self._labels = tuple(labels)

    @quietly
    def __call__(self, outputs: Sequence[Tensor], transform: Transform, min_confidence: float) -> Found:  # noqa: ARG002
        x0, y0, x1, y1, visible = self._visible(transform)
        part = outputs[self._place].reshape(*self._map_wh[::-1], self._classes)[y0:y1, x0:x1]
        to_frame = ToFrame(transform)
        found: list[Segment] = []
        for class_id, mask in self._masks(part):
            share = int(np.count_nonzero(mask)) / mask.size * visible
            if share > 0.0 and share >= self._spec.min_share and class_id not in self._spec.ignore_classes:
                xyxy = to_frame.box(*self._to_input(_around(mask), (x0, y0)))
                if xyxy:
                    found.append(Segment(label_of(self._labels, class_id), class_id, round(share, 4), xyxy))
        found.sort(key=lambda segment: -segment.share)
        return Found(segments=found)

    def _masks(self, part: Tensor) -> Iterator[tuple[int, NDArray[np.bool_]]]:
        """The classes that cover cells of a part of the map, and the cells that each covers."""
        if self._classes == 1:
            plane = part[..., 0]
            yield 0, (plane >= self._at_least) & (plane < np.inf)
            return
        best = part.argmax(axis=-1)
        if part.dtype.kind == "f":
            values = np.take_along_axis(part, best[..., None], axis=-1)
            if not np.isfinite(values).all():  # argmax takes NaN for the largest: look again without NaN and inf
                part = np.where(np.isfinite(part), part, -np.inf)
                best = np.where(part.max(axis=-1) > -np.inf, part.argmax(axis=-1), self._classes)
        for class_id in np.flatnonzero(np.bincount(best.ravel(), minlength=self._classes)[: self._classes]).tolist():
            yield class_id, best == class_id

    def _visible(self, transform: Transform) -> tuple[int, int, int, int, float]:
        """Cells of the map whose centres lie in the frame (left, top, right, bottom; at least one each way), and the
        share of the frame that the model sees."""
        (xx, xy, x), (yx, yy, y) = transform.matrix.tolist()
        det = xx * yy - xy * yx
        width, height = transform.frame_wh
        corners = [(cx - x, cy - y) for cx in (0.0, width) for cy in (0.0, height)]
        across = [(yy * dx - xy * dy) / det for dx, dy in corners]
        down = [(xx * dy - yx * dx) / det for dx, dy in corners]
        left, right = max(0.0, min(across)), min(float(self._input_wh[0]), max(across))
        top, bottom = max(0.0, min(down)), min(float(self._input_wh[1]), max(down))
        visible = max(0.0, right - left) * max(0.0, bottom - top) * abs(det) / (width * height)
        x0, x1 = _cells(left, right, self._map_wh[0] / self._input_wh[0], self._map_wh[0])
        y0, y1 = _cells(top, bottom, self._map_wh[1] / self._input_wh[1], self._map_wh[1])
        return x0, y0, x1, y1, min(visible, 1.0)

    def _to_input(self, box: tuple[int, int, int, int], offset: tuple[int, int]) -> Xyxy:
        """A box of cells, counted from `offset`, in input pixels."""
        across = self._input_wh[0] / self._map_wh[0]
        down = self._input_wh[1] / self._map_wh[1]
        left, top, right, bottom = box
        return (
            (left + offset[0]) * across,
            (top + offset[1]) * down,
            (right + offset[0]) * across,
            (bottom + offset[1]) * down,
        )


def _classes(info: TensorInfo) -> int:
    """Classes of a map; 0 if it is none."""
    return info.shape[3] if len(info.shape) == 4 else int(len(info.shape) == 3)


def _cells(low: float, high: float, per_px: float, count: int) -> tuple[int, int]:
    """First cell, and the one after the last, whose centres lie between two edges in input pixels."""
    first = min(max(round(low * per_px), 0), count - 1)
    return first, max(min(round(high * per_px), count), first + 1)


def _around(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The smallest box of cells around all that are set; at least one is."""
    rows = np.flatnonzero(mask.any(axis=1))
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
