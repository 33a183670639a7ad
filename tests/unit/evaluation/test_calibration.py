"""agent/evaluation/calibration.py, against scikit-learn, SciPy's optimiser, and bins counted by hand."""

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.evaluation.calibration import (
    BINS,
    Bin,
    best_temperature,
    brier,
    expected_error,
    is_distribution,
    reliability,
)


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def guesses(seed: int, classes: int, sharpness: float = 1.0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Confidences with four digits as results carry them, of a model whose logits are too large by `sharpness`."""
    chance = np.random.default_rng(seed)
    logits = chance.normal(0, 1.5, (5000, classes))
    true = softmax(logits).cumsum(axis=1)
    labels = np.minimum((chance.random((5000, 1)) > true).sum(axis=1), classes - 1)
    return softmax(sharpness * logits).round(4).astype(np.float32), labels.astype(np.int64)


@pytest.mark.parametrize("classes", [2, 10])
def test_brier_is_scikit_learns(classes: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install -e '.[test]'")
    scores, labels = guesses(1, classes)
    whole = scores.astype(np.float64)
    whole /= whole.sum(axis=1, keepdims=True)
    theirs = metrics.brier_score_loss(labels, whole, labels=range(classes), scale_by_half=False)
    assert brier(whole, labels) == pytest.approx(theirs, abs=1e-9)
    assert brier(scores, labels) == pytest.approx(theirs, abs=1e-3)


def test_the_expected_error_is_counted_in_15_bins() -> None:
    """Five answers of 0.6 (the upper edge of bin 9), of which four are right; five of 0.95, of which all are."""
    scores = np.array([[0.6, 0.4]] * 5 + [[0.05, 0.95]] * 5, np.float32)
    labels = np.array([0, 0, 0, 0, 1] + [1] * 5)
    bins = reliability(scores, labels)
    assert [(one.low, one.answers, one.accuracy) for one in bins] == [(9 / BINS, 5, 0.8), (14 / BINS, 5, 1.0)]
    assert [one.confidence for one in bins] == pytest.approx([0.6, 0.95])
    assert expected_error(bins) == pytest.approx((5 * 0.2 + 5 * 0.05) / 10)


def test_a_bin_takes_its_upper_edge_not_its_lower() -> None:
    edges = np.array([[1 / BINS * place] for place in (0, 1, 7, 15)], np.float64)
    assert [one.low * BINS for one in reliability(edges, np.zeros(4, np.int64))] == pytest.approx([0, 6, 14])
    assert expected_error([Bin(0.0, 0, 0.0, 0.0)]) == 0.0


@pytest.mark.parametrize("sharpness", [0.7, 1.0, 2.0])
def test_the_best_temperature_makes_up_for_logits_that_are_too_large(sharpness: float) -> None:
    optimize = pytest.importorskip("scipy.optimize", reason="pip install -e '.[test]'")
    scores, labels = guesses(2, 5, sharpness)
    logits = np.log(np.maximum(scores.astype(np.float64), 5e-5))

    def loss(temperature: float) -> float:
        return -float(np.log(softmax(logits / temperature)[np.arange(len(labels)), labels]).mean())

    found = best_temperature(scores, labels)
    assert found == pytest.approx(optimize.minimize_scalar(loss, bounds=(0.1, 10), method="bounded").x, rel=1e-3)
    assert found == pytest.approx(sharpness, rel=0.05)


def test_a_model_that_is_always_right_has_no_best_temperature() -> None:
    assert best_temperature(np.array([[0.9, 0.1], [0.2, 0.8]], np.float32), np.array([0, 1])) is None


def test_logits_are_no_confidences() -> None:
    assert is_distribution(guesses(3, 10)[0])
    assert not is_distribution(np.array([[3.2, -1.0]], np.float32))
    assert not is_distribution(np.array([[0.9, 0.8]], np.float32))
