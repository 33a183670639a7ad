"""Weights with fewer values: magnitude pruning and clustering, as what puts weights in order after each step.

Neither makes a TFLite file smaller, as it holds every weight; but what is zero, or of a few values, packs better.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.optimize_training import Settle, kernels

FIRST_SHARE, LAST_MASK = 0.2, 0.6
"""Share of zeros at the start; share of the steps after which the zeros stay where they are."""
MASK_EVERY_STEPS = 20
CLUSTERS = 16
CLUSTER_ROUNDS = 50

Weights = NDArray[np.float32]


# --- magnitude pruning


def zeros_at(progress: float, share: float) -> float:
    """Share of zeros when `progress` (0 to 1) of the time in which it grows has passed.

    The cubic schedule of Zhu & Gupta 2017, "To prune, or not to prune", equation 1: most goes early, while the network
    can still learn to do without.
    """
    left = (1.0 - min(1.0, max(0.0, progress))) ** 3
    return share + (min(FIRST_SHARE, share) - share) * left


def mask_of(weights: Weights, share: float) -> NDArray[np.bool_]:
    """False at the given share of the weights: those with the least magnitude."""
    mask = np.ones(weights.size, np.bool_)
    mask[np.argsort(np.abs(weights), axis=None, kind="stable")[: round(weights.size * share)]] = False
    return mask.reshape(weights.shape)


def sparsen(model: Any, share: float, steps: int) -> Settle:
    """Magnitude pruning: the weights with the least magnitude are held at 0, in the end this share of each layer."""
    found = kernels(model)
    masks = [np.ones(one.shape, np.float32) for one in found]

    def settle(number: int) -> None:
        progress = number / (steps * LAST_MASK)
        if (progress <= 1.0 and number % MASK_EVERY_STEPS == 0) or number == steps:
            now = zeros_at(progress, share)
            masks[:] = [mask_of(one.numpy(), now).astype(np.float32) for one in found]
        for one, mask in zip(found, masks, strict=True):
            one.assign(one * mask)

    return settle


# --- clustering


def cluster_of(weights: Weights, clusters: int) -> NDArray[np.int64]:
    """The number of each weight's cluster, flat.

    k-means from centroids that lie evenly between the least and the greatest weight, which keeps the few large ones
    (Han et al. 2016, "Deep Compression", section 3.2).
    """
    flat = weights.ravel().astype(np.float64)
    centroids = np.linspace(flat.min(), flat.max(), clusters)
    for _ in range(CLUSTER_ROUNDS):
        places = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, flat)  # in one dimension: the nearest
        sizes = np.bincount(places, minlength=clusters)
        means = np.bincount(places, flat, minlength=clusters) / np.maximum(sizes, 1)
        centroids = np.where(sizes > 0, means, centroids)
    return places


def cluster(model: Any) -> Settle:
    """Clustering: each weight is the mean of its cluster; so a centroid moves by the mean step of its weights."""
    found = kernels(model)
    places = [cluster_of(one.numpy(), CLUSTERS) for one in found]
    sizes = [np.maximum(np.bincount(place, minlength=CLUSTERS), 1) for place in places]

    def settle(_: int) -> None:
        for one, place, size in zip(found, places, sizes, strict=True):
            centroids = np.bincount(place, one.numpy().ravel(), minlength=CLUSTERS) / size
            one.assign(centroids[place].astype(np.float32).reshape(one.shape))

    settle(0)
    return settle
