"""agent/evaluation/measures.py and tools/measures.py, against numbers worked out by hand and scikit-learn's."""

import numpy as np
import pytest
from numpy.typing import NDArray

from agent.evaluation.measures import Counts, confuse, count, runs, touched
from tools.measures import best_threshold

Y, N = True, False


def test_counts_precision_recall_and_f1() -> None:
    counts = count([Y, Y, Y, N, N, N, N, Y], [Y, Y, N, Y, N, N, Y, Y])
    assert counts == Counts(true_positives=3, false_positives=1, false_negatives=2, true_negatives=2)
    assert counts.precision == pytest.approx(3 / 4)
    assert counts.recall == pytest.approx(3 / 5)
    assert counts.f1 == pytest.approx(2 / 3)


def test_a_share_of_nothing_is_0() -> None:
    assert (count([N, N], [Y, N]).precision, count([Y, N], [N, N]).recall, count([N], [N]).f1) == (0.0, 0.0, 0.0)
    assert count([], []) == Counts(0, 0, 0, 0)


def test_each_answer_has_a_label() -> None:
    with pytest.raises(ValueError, match="2 answers for 1 labels"):
        count([Y, N], [Y])


def test_runs_are_stretches_of_true() -> None:
    assert runs([N, Y, Y, N, Y]) == [(1, 3), (4, 5)]
    assert runs([Y, Y]) == [(0, 2)]
    assert runs([N]) == runs([]) == []
    assert touched([(1, 3), (4, 5)], [N, N, Y, Y, N]) == 1


def test_the_best_threshold_lies_between_two_scores() -> None:
    assert best_threshold([0.1, 0.2, 0.6, 0.9], [N, N, Y, Y]) == (pytest.approx(0.4), 1.0)
    threshold, f1 = best_threshold([0.1, 0.7, 0.6, 0.9], [N, N, Y, Y])  # one usual window among the anomalies
    assert (threshold, f1) == (pytest.approx(0.35), pytest.approx(0.8))


def test_without_different_scores_there_is_no_threshold() -> None:
    with pytest.raises(ValueError, match="two different scores"):
        best_threshold([0.5, 0.5], [Y, N])


def test_the_confusion_counts_who_was_taken_for_whom() -> None:
    confusion = confuse([0, 0, 1, 1, 1, 2, 0, None], [0, 0, 0, 1, 1, 1, 2, 2], 3)
    assert confusion.table.tolist() == [[2, 1, 0, 0], [0, 2, 1, 0], [1, 0, 0, 1]]
    assert confusion.counts == [Counts(2, 1, 1, 4), Counts(2, 1, 1, 4), Counts(0, 1, 2, 5)]
    assert confusion.accuracy == pytest.approx(4 / 8)


@pytest.mark.parametrize("seed", range(8))
def test_figures_are_scikit_learns(seed: int) -> None:
    """Also where a class is never a label, never an answer, or neither, and where there is no answer (class 7)."""
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install -e '.[test]'")
    chance = np.random.default_rng(seed)
    labels = chance.choice([0, 1, 2, 3, 5], 60)
    answers = np.where(chance.random(60) < 0.6, labels, chance.choice([0, 1, 2, 4, 7], 60))
    confusion = confuse([None if answer == 7 else int(answer) for answer in answers], labels.tolist(), 7)

    def theirs(average: str | None) -> list[NDArray[np.float64]]:
        known = np.union1d(labels, answers[answers < 7])
        choice = {"labels": known, "average": average, "zero_division": 0}
        return metrics.precision_recall_fscore_support(labels, answers, **choice)[:3]

    ours = [(one.precision, one.recall, one.f1) for one in confusion.counts]
    np.testing.assert_allclose(np.array([ours[known] for known in [*range(6)]]).T, theirs(None), atol=1e-12)
    np.testing.assert_allclose(confusion.macro, theirs("macro"), atol=1e-12)
    assert confusion.accuracy == pytest.approx(metrics.accuracy_score(labels, answers))


def test_classes_that_nobody_names_do_not_count() -> None:
    assert confuse([0, 1], [0, 1], 3).macro == (1.0, 1.0, 1.0)
    assert confuse([], [], 3).macro == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("answers", [[0], [0, 4], [0, -1]])
def test_answers_are_classes_and_as_many_as_labels(answers: list[int]) -> None:
    with pytest.raises(ValueError, match=r"1 answers for 2 labels|classes from 0 to 2"):
        confuse(answers, [0, 1], 3)
