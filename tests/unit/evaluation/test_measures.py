"""tools/measures.py, against numbers worked out by hand."""

import pytest

from tools.measures import Counts, best_threshold, count, runs, touched

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
