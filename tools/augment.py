"""Samples in batches, changed a little anew each time: so that a network learns what does not matter.

Pictures come as the network gets them, so what is here works on floats; the edge fills in what moves into view.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]


class Labelled(NamedTuple):
    """What a network learns, or is tried on."""

    samples: Samples
    """N x height x width x channels, or N x samples x channels."""
    labels: NDArray[np.int64]
    """N numbers of classes."""
    weights: Samples
    """N; how much each counts."""


@dataclass(frozen=True, slots=True)
class Augment:
    """How far samples are changed; 0 is not at all. Windows of sensor values only get noise."""

    shift_px: int = 0
    """Moved by up to so much."""
    rotate_deg: float = 0.0
    """Turned by up to so much, either way."""
    flip: bool = False
    """Every second one, on average, has left and right exchanged."""
    noise: float = 0.0
    """Standard deviation, in what the network gets."""
    brightness: float = 0.0
    """All of a picture lighter or darker by up to so much, in what the network gets."""
    low: float = -np.inf
    high: float = np.inf
    """What a picture's values may be."""

    def __call__(self, samples: Samples, chance: np.random.Generator) -> Samples:
        """N x height x width x channels, or N x samples x channels; gives the same shape."""
        if samples.ndim == 4:
            samples = self._move(samples, chance)
            if self.flip:
                mirrored = chance.random(len(samples)) < 0.5
                samples = np.where(mirrored[:, None, None, None], samples[:, :, ::-1], samples)
            if self.brightness:
                change = chance.uniform(-self.brightness, self.brightness, (len(samples), 1, 1, 1))
                samples = samples + change.astype(np.float32)
        if self.noise:
            samples = samples + chance.normal(0.0, self.noise, samples.shape).astype(np.float32)
        if self.brightness or self.noise:
            samples = np.clip(samples, np.float32(self.low), np.float32(self.high))
        return samples

    def _move(self, pictures: Samples, chance: np.random.Generator) -> Samples:
        reach = self.shift_px
        if self.rotate_deg:
            pictures = self._turn(pictures, chance)
        if not reach:
            return pictures
        count, height, width = pictures.shape[:3]
        wide = np.pad(pictures, ((0, 0), (reach, reach), (reach, reach), (0, 0)), "edge")
        down, right = chance.integers(0, 2 * reach + 1, (2, count, 1))
        rows, columns = down + np.arange(height), right + np.arange(width)
        return np.asarray(wide[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None, :]])

    def _turn(self, pictures: Samples, chance: np.random.Generator) -> Samples:
        height, width = pictures.shape[1:3]
        turned = np.empty_like(pictures)
        for place, angle_deg in enumerate(chance.uniform(-self.rotate_deg, self.rotate_deg, len(pictures))):
            matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), float(angle_deg), 1.0)
            one = cv2.warpAffine(pictures[place], matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
            turned[place] = one.reshape(pictures.shape[1:])
        return turned


def batches(
    every: Labelled, augment: Augment, batch: int, seed: int
) -> Iterator[tuple[Samples, NDArray[np.int64], Samples]]:
    """Samples, labels and weights, without an end; every sample once an epoch, in another order in each.

    Args:
        every: all there are.
        augment: how samples are changed.
        batch: samples of a batch; the last of an epoch may have fewer.
        seed: the same one gives the same batches.
    """
    chance = np.random.default_rng(seed)
    while True:
        order = chance.permutation(len(every.samples))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            yield augment(every.samples[chosen], chance), every.labels[chosen], every.weights[chosen]
