"""A head of a few labels: multinomial logistic regression with the model's own answer as offset, in numpy.

It is taken only when it does better on labels that it has not seen (5-fold cross-validation), so it can't make worse
what the operator cares for; what the labels do not touch is held by weight decay and by the model's own answer.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

MIN_LABELS = 10
FOLDS = 5
MAX_WORK = 5_000_000
"""Labels x values x classes: a minute or two on the smallest boards. The newest labels count where there are more."""
_STEPS = 150
_RATE = 0.25
_DECAYS = (0.3, 0.03, 0.003)
"""Weight decay that is tried: the strongest of those that do best is taken."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """What came of the labels."""

    head: Floats
    """(N + 1) x classes; to be added to the head that is there."""
    labels: int
    accuracy_before: float
    """On all labels, as the model answers now."""
    accuracy: float
    """On labels that the head had not seen, by cross-validation."""
    mended: int
    """Labels that it gets right, and the model did not."""
    broken: int
    """The other way round."""

    @property
    def is_better(self) -> bool:
        """By more than chance: two standard deviations of the sign test (McNemar 1947)."""
        return self.mended - self.broken > 2 * math.sqrt(self.mended + self.broken)


def learn(embeddings: Floats, log_confidences: Floats, truths: NDArray[np.int64]) -> Lesson:
    """Fit a head.

    Args:
        embeddings: samples x N.
        log_confidences: samples x classes, the model's answers now.
        truths: the class of each sample, oldest first.
    """
    most = max(MIN_LABELS, MAX_WORK // (embeddings.shape[1] * log_confidences.shape[1]))
    embeddings, log_confidences, truths = embeddings[-most:], log_confidences[-most:], truths[-most:]
    mean, std = embeddings.mean(axis=0), embeddings.std(axis=0) + 1e-6
    scale = std * np.float32(np.sqrt(embeddings.shape[1]))
    given = np.concatenate([(embeddings - mean) / scale, np.ones((len(truths), 1), np.float32)], 1)
    folds = np.random.default_rng(1).permutation(len(truths)) % FOLDS
    rights = [_cross_validate(given, log_confidences, truths, folds, decay) for decay in _DECAYS]
    best = int(np.argmax([right.sum() for right in rights]))
    weights = _fit(given, log_confidences, truths, _DECAYS[best])
    plain = weights[:-1] / scale[:, None]  # for embeddings as they come
    right, before = rights[best], log_confidences.argmax(axis=1) == truths
    return Lesson(
        head=np.concatenate([plain, (weights[-1] - mean @ plain)[None]]).astype(np.float32),
        labels=len(truths),
        accuracy_before=float(before.mean()),
        accuracy=float(right.mean()),
        mended=int(np.sum(right & ~before)),
        broken=int(np.sum(before & ~right)),
    )


def _cross_validate(
    given: Floats, offset: Floats, truths: NDArray[np.int64], folds: NDArray[np.int64], decay: float
) -> NDArray[np.bool_]:
    """Which labels are right when the head was fitted without them."""
    right = np.zeros(len(truths), np.bool_)
    for fold in range(FOLDS):
        seen, unseen = folds != fold, folds == fold
        weights = _fit(given[seen], offset[seen], truths[seen], decay)
        right[unseen] = (offset[unseen] + given[unseen] @ weights).argmax(axis=1) == truths[unseen]
    return right


def _fit(given: Floats, offset: Floats, truths: NDArray[np.int64], decay: float) -> Floats:
    """Adam (Kingma and Ba 2015) on all samples at once; the objective is convex, so where it starts does not matter."""
    weights = np.zeros((given.shape[1], offset.shape[1]), np.float32)
    first, second = np.zeros_like(weights), np.zeros_like(weights)
    wanted = np.eye(offset.shape[1], dtype=np.float32)[truths]
    shrunk = np.ones((given.shape[1], 1), np.float32)
    shrunk[-1] = 0.0  # not the bias
    for step in range(1, _STEPS + 1):
        logits = offset + given @ weights
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        slope = given.T @ (powers / powers.sum(axis=1, keepdims=True) - wanted) / len(truths)
        slope += decay / len(truths) * shrunk * weights
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        weights -= _RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return weights
