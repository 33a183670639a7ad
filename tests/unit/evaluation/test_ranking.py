"""agent/evaluation/ranking.py, against scikit-learn and a curve worked out by hand."""

import numpy as np
import pytest

from agent.evaluation.ranking import RECALLS, at_recalls, average_precision, curve


@pytest.mark.parametrize("seed", range(8))
def test_curve_and_average_precision_are_scikit_learns(seed: int) -> None:
    """Confidences have few digits, so many are equal."""
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install -e '.[test]'")
    chance = np.random.default_rng(seed)
    is_right = chance.random(80) < 0.3
    confidences = np.clip(chance.normal(0.4 + 0.2 * is_right, 0.2), 0, 1).round(seed % 4 + 1).astype(np.float32)
    points = curve(confidences, is_right)
    precision, recall, _ = metrics.precision_recall_curve(is_right, confidences)
    np.testing.assert_allclose(points.precision, precision[-2::-1])
    np.testing.assert_allclose(points.recall, recall[-2::-1])
    assert average_precision(points) == pytest.approx(metrics.average_precision_score(is_right, confidences))


def test_what_is_never_there_has_no_curve() -> None:
    assert curve(np.array([0.1, 0.9]), np.array([False, False])) is None


def test_at_a_recall_the_best_precision_of_it_or_more_counts() -> None:
    points = curve(np.array([0.9, 0.8, 0.7, 0.6]), np.array([False, True, True, False]))
    assert points.precision.tolist() == [0.0, 1 / 2, 2 / 3, 1 / 2]
    assert at_recalls(points).tolist() == [2 / 3] * len(RECALLS)
    half = at_recalls(points._replace(recall=points.recall / 2))  # as when half was never found
    assert half.tolist() == [2 / 3] * 51 + [0.0] * 50
