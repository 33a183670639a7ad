"""A head of a few labels."""

import numpy as np
import pytest

from agent.feedback import learner
from agent.feedback.learner import learn

RNG = np.random.default_rng(1)
MEANS = 3 * RNG.standard_normal((4, 16))


def examples(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truths = rng.integers(0, 4, count)
    return (MEANS[truths] + rng.standard_normal((count, 16))).astype(np.float32), truths


def answers(logs: np.ndarray, embeddings: np.ndarray, head: np.ndarray) -> np.ndarray:
    return (logs + embeddings @ head[:-1] + head[-1]).argmax(axis=1)


def test_learns_what_the_model_gets_wrong():
    """A model that takes class 0 for 1, and is right otherwise."""
    embeddings, truths = examples(200, 2)
    logs = np.log(np.where(np.eye(4)[np.where(truths == 0, 1, truths)] == 1, 0.91, 0.03)).astype(np.float32)
    lesson = learn(embeddings, logs, truths)
    assert lesson.accuracy_before < 0.85
    assert lesson.accuracy > 0.97
    assert lesson.is_better
    others, wanted = examples(200, 3)
    logs = np.log(np.where(np.eye(4)[np.where(wanted == 0, 1, wanted)] == 1, 0.91, 0.03)).astype(np.float32)
    assert (answers(logs, others, lesson.head) == wanted).mean() > 0.97


def test_labels_that_mean_nothing_make_nothing_better():
    """Random labels are learnt by heart, and cross-validation tells."""
    embeddings, truths = examples(100, 2)
    logs = np.log(np.where(np.eye(4)[truths] == 1, 0.7, 0.1)).astype(np.float32)
    noise = np.random.default_rng(4).integers(0, 4, 100)
    assert not learn(embeddings, logs, noise).is_better
    assert not learn(embeddings, logs, truths).is_better, "it was right before"


def test_features_that_never_vary_do_no_harm():
    embeddings, truths = examples(60, 2)
    embeddings[:, 3] = 7.0
    lesson = learn(embeddings, np.full((60, 4), np.log(0.25), np.float32), truths)
    assert np.isfinite(lesson.head).all()
    assert lesson.is_better


def test_only_the_newest_are_looked_at_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(learner, "MAX_WORK", 50 * 16 * 4)
    embeddings, truths = examples(70, 2)
    logs = np.zeros((70, 4), np.float32)
    lesson, newest = learn(embeddings, logs, truths), learn(embeddings[20:], logs[20:], truths[20:])
    assert lesson.labels == newest.labels == 50
    assert (lesson.head == newest.head).all()
