"""agent/evaluation/regression.py: the figures of numbers, and what is said of labels that do not fit."""

from pathlib import Path

import numpy as np
import pytest

from agent.errors import DataSetError, ModelError
from agent.evaluation.evaluate import Labelled, evaluate
from agent.evaluation.measures import deviations
from agent.evaluation.picture_set import load_set, numbers
from tests.unit.evaluation.number_models import TOO_LARGE, pair_bundle, pair_set

LEVELS = [((1.0, 10.0), "4 41"), ((2.0, 20.0), "10 80"), ((3.0, 30.0), "13 131"), ((4.0, 50.0), "17 200")]
"""The model says 5 41, 9 81, 13 121, 17 201."""


@pytest.mark.parametrize("seed", range(6))
def test_figures_are_scikit_learns(seed: int) -> None:
    """Also of a constant, whether all answers are right or not."""
    metrics = pytest.importorskip("sklearn.metrics", reason="pip install -e '.[test]'")
    chance = np.random.default_rng(seed)
    truth = chance.normal(5.0, 3.0, (40, 4)) * [1.0, 1e-6, 1e6, 1.0]
    truth[:, 2:] = 7.0
    answers = truth + chance.normal(0.3, 1.0, truth.shape) * [1.0, 1e-6, 1.0, 0.0]
    ours = deviations(answers, truth)
    for name, theirs in (
        ("mae", metrics.mean_absolute_error),
        ("rmse", metrics.root_mean_squared_error),
        ("r2", metrics.r2_score),
        ("median_absolute_error", metrics.median_absolute_error),
    ):
        np.testing.assert_allclose(ours[name], theirs(truth, answers, multioutput="raw_values"), rtol=1e-12, atol=1e-12)
        assert ours[name].mean() == pytest.approx(theirs(truth, answers), rel=1e-12, abs=1e-12)
    always_the_mean = np.broadcast_to(truth.mean(axis=0), truth.shape)
    baseline = metrics.mean_absolute_error(truth, always_the_mean, multioutput="raw_values")
    np.testing.assert_allclose(ours["baseline_mae"], baseline, rtol=1e-12, atol=1e-12)


def test_bias_has_a_sign_and_the_95th_percentile_lies_between_errors() -> None:
    truth = np.zeros((21, 1))
    figures = deviations(-np.arange(21.0)[:, None], truth)
    assert (figures["bias"][0], figures["p95_absolute_error"][0], figures["median_absolute_error"][0]) == (-10, 19, 10)


def test_one_row_has_no_r2() -> None:
    figures = deviations(np.array([[2.0]]), np.array([[5.0]]))
    assert np.isnan(figures["r2"][0])
    assert (figures["mae"][0], figures["baseline_mae"][0]) == (3.0, 0.0)


@pytest.mark.runtime
def test_a_bundle_is_measured_on_a_data_set(tmp_path: Path) -> None:
    report = evaluate(pair_bundle(tmp_path / "model"), Labelled(pair_set(tmp_path / "data", LEVELS)))
    assert (report["task"], report["split"], report["windows"], report["without_values"]) == ("regress", "test", 4, 0)
    first, second = report["values"]
    assert (first["value"], first["mae"], first["bias"], first["baseline_mae"]) == (0, 0.5, 0.0, 4.0)
    assert (second["value"], second["mae"], second["bias"]) == (1, 3.0, -2.0)
    assert second["rmse"] == pytest.approx((102 / 4) ** 0.5, rel=1e-5)
    assert first["r2"] == pytest.approx(1 - 2 / 90)
    assert (report["mae"], report["bias"]) == (1.75, -1.0)
    assert report["points"]["answers"] == [[5, 41], [9, 81], [13, 121], [17, 201]]


@pytest.mark.runtime
def test_samples_that_the_model_gives_nothing_for_are_counted(tmp_path: Path) -> None:
    rows = [((TOO_LARGE, 0.0), "1 1"), *LEVELS, ((0.0, TOO_LARGE), "1 1")]
    report = evaluate(pair_bundle(tmp_path / "model"), Labelled(pair_set(tmp_path / "data", rows)))
    assert (report["windows"], report["without_values"], report["mae"]) == (4, 2, 1.75)
    nothing = pair_set(tmp_path / "nothing", rows[:1])
    with pytest.raises(ModelError, match="no finite number for any of 1 samples"):
        evaluate(tmp_path / "model", Labelled(nothing))


@pytest.mark.runtime
@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("full", r"index.csv, row 4: label: expected a number for each value that the model gives.*; got 'full'"),
        ("nan 1", r"index.csv, row 4: label: expected a number"),
        ("3", r"index.csv, row 4: label: expected 2 numbers, one for each value .*; got '3'"),
        ("3 4 5", r"index.csv, row 4: label: expected 2 numbers, one for each value .*; got '3 4 5'"),
    ],
)
def test_labels_that_do_not_fit_are_named_by_their_row(tmp_path: Path, label: str, message: str) -> None:
    data = pair_set(tmp_path / "data", [*LEVELS[:2], ((0.0, 0.0), label), *LEVELS[2:]])
    with pytest.raises(DataSetError, match=message) as caught:
        evaluate(pair_bundle(tmp_path / "model"), Labelled(data))
    assert "\n" not in str(caught.value)


def test_numbers_may_be_many(tmp_path: Path) -> None:
    """A class's name is short; the corners of a face are not."""
    label = " ".join(f"{place / 7:.5f}" for place in range(42))
    assert load_set(pair_set(tmp_path / "data", [((0.0, 0.0), label)])).entries[0].label == label
    assert len(numbers(label) or ()) == 42
    with pytest.raises(DataSetError, match="row 2: label: expected a short line of text, or numbers"):
        load_set(pair_set(tmp_path / "wordy", [((0.0, 0.0), f"{label} and")]))
