"""Drift of confidences, classes and embeddings against a reference."""

import math

import numpy as np
import pytest

from agent.config import Drift
from agent.feedback.drift import DriftChange, DriftMonitor, distance
from agent.feedback.summary import Summary
from agent.manifest import Embeddings, Histogram, Reference

RNG = np.random.default_rng(1)
WINDOW = 400


def reference(samples: int = 5000) -> Reference:
    """Confidences are spread evenly, classes three to one, embeddings are standard normal in 8 dimensions."""
    tenths = tuple(round(0.1 * place, 1) for place in range(1, 10))
    far = [distance(RNG.standard_normal(8).astype(np.float32), (0.0,) * 8, (1.0,) * 8) for _ in range(20_000)]
    edges = tuple(np.quantile(far, tenths).tolist())
    return Reference(
        samples=samples,
        classes={"cat": 0.75, "dog": 0.25},
        confidence=Histogram(tenths, (0.1,) * 10),
        embedding=Embeddings((0.0,) * 8, (1.0,) * 8, Histogram(edges, (0.1,) * 10)),
    )


def usual(rng: np.random.Generator) -> tuple[Summary, bytes]:
    label = "cat" if rng.random() < 0.75 else "dog"
    return Summary(label, rng.random(), 0.5), rng.standard_normal(8).astype("<f4").tobytes()


def watch(monitor: DriftMonitor, frames: int, see: object = usual, seed: int = 2) -> list[DriftChange]:
    rng = np.random.default_rng(seed)
    return [change for _ in range(frames) if (change := monitor.see(*see(rng)))]


def monitor(**settings: object) -> DriftMonitor:
    return DriftMonitor(reference(), Drift(window_frames=WINDOW, every_s=0.0, **settings))


def test_more_of_the_same_is_no_drift():
    watched = monitor()
    assert watch(watched, 20 * WINDOW) == []
    assert watched.figures is not None
    assert set(watched.figures.psi) == {"confidence", "classes", "embedding"}
    assert set(watched.figures.ks) == {"confidence", "embedding"}
    assert max(watched.figures.psi.values()) < 0.1


def test_nothing_is_said_before_the_window_is_full():
    watched = monitor()
    assert watch(watched, WINDOW - 1, lambda rng: (Summary("cow", 0.0, 1.0), b"")) == []
    assert watched.figures is None


def unsure(rng: np.random.Generator) -> tuple[Summary, bytes]:
    summary, embedding = usual(rng)
    return Summary(summary.label, summary.confidence / 2, summary.margin), embedding


def other_classes(rng: np.random.Generator) -> tuple[Summary, bytes]:
    return Summary("dog", rng.random(), 0.5), usual(rng)[1]


def new_class(rng: np.random.Generator) -> tuple[Summary, bytes]:
    return (Summary("cow", rng.random(), 0.5), usual(rng)[1]) if rng.random() < 0.2 else usual(rng)


def other_pictures(rng: np.random.Generator) -> tuple[Summary, bytes]:
    return usual(rng)[0], (2 * rng.standard_normal(8)).astype("<f4").tobytes()


def broken_embedding(rng: np.random.Generator) -> tuple[Summary, bytes]:
    return usual(rng)[0], np.full(8, math.nan, "<f4").tobytes()


@pytest.mark.parametrize(
    ("shift", "what"),
    [
        (unsure, "confidence"),
        (other_classes, "classes"),
        (new_class, "classes"),
        (other_pictures, "embedding"),
        (broken_embedding, "embedding"),
    ],
)
def test_a_shift_is_told_once_and_so_is_its_end(shift: object, what: str):
    watched = monitor()
    assert watch(watched, WINDOW) == []
    (began,) = watch(watched, 2 * WINDOW, shift)
    assert began.drifts
    assert watched.drifts
    psi = watched.figures.psi
    assert [name for name, value in psi.items() if value >= 0.25] == [what]
    (ended,) = watch(watched, 2 * WINDOW, seed=3)
    assert not ended.drifts


def test_what_is_not_watched_does_not_drift():
    watched = monitor(watch=("confidence", "embedding"))
    assert watch(watched, 2 * WINDOW, other_classes) == []
    assert "classes" not in watched.figures.psi


def test_a_model_without_an_embedding_is_watched_by_the_rest():
    watched = monitor()
    (began,) = watch(watched, 2 * WINDOW, lambda rng: (unsure(rng)[0], b""))
    assert set(began.figures.psi) == {"confidence", "classes"}


def test_few_frames_have_to_be_far_off():
    """The index of ten frames is large by chance; the distance says that they could be usual ones."""
    watched = DriftMonitor(reference(), Drift(window_frames=10, every_s=0.0, watch=("confidence", "embedding")))
    assert watch(watched, 300) == []


def test_distance_is_in_standard_deviations():
    assert distance(np.array([1.0, 5.0], np.float32), (0.0, 1.0), (1.0, 4.0)) == pytest.approx(1.0)


@pytest.mark.parametrize("classes", [10, 100])
def test_many_classes_are_no_drift_by_themselves(classes: int):
    """Of a hundred classes the index of usual frames is at the limit."""
    rng = np.random.default_rng(5)
    usual_shares = rng.dirichlet(np.ones(classes) * 2)
    counted = rng.multinomial(5000, usual_shares) / 5000
    shares = {f"{number}": float(share) for number, share in enumerate(counted) if share}
    settings = Drift(window_frames=500, every_s=0.0, watch=("classes",))
    watched = DriftMonitor(Reference(5000, shares, Histogram((0.5,), (0.5, 0.5))), settings)
    assert watch(watched, 3000, lambda rng: (Summary(f"{rng.choice(classes, p=usual_shares)}", 0.5, 1.0), b"")) == []
    (began,) = watch(watched, 500, lambda _: (Summary("0", 0.5, 1.0), b""))
    assert began.drifts
