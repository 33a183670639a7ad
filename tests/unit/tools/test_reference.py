"""tools/reference.py: what a model says of its own data, as shares of bins, in its manifest."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.config import Drift
from agent.errors import ModelError
from agent.feedback.drift import DriftMonitor
from agent.feedback.summary import summarize
from agent.inference.bundle import load_bundle
from agent.manifest import load_manifest
from tests.sim.digit_sets import digits, make_set, turned
from tests.sim.embedded import embedded_digits
from tools.reference import BINS, MIN_CONFIDENCE, histogram, main, write_reference

VALUES = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 1.0, 0.5]) | st.floats(0, 1, width=32)


@given(values=st.lists(VALUES, min_size=1, max_size=300))
@settings(max_examples=200, deadline=None)
def test_a_histogram_is_one_whatever_the_values(values: list[float]) -> None:
    """That edges ascend, and shares add up, `Histogram` checks itself."""
    made = histogram(values)
    assert len(made.edges) <= BINS
    places = np.searchsorted(made.edges, values, side="right")
    assert np.bincount(places, minlength=len(made.shares)) / len(values) == pytest.approx(made.shares, abs=1e-5)


def test_bins_have_about_as_many_values_each() -> None:
    made = histogram(np.random.default_rng(1).normal(size=5000).tolist())
    assert made.shares == pytest.approx([0.1] * BINS, abs=0.001)


@pytest.mark.parametrize(
    ("values", "shares"),
    [
        ([1.0] * 50, (0, 1, 0)),
        ([0.0] * 90 + [1.0] * 10, (0, 0.9, 0.1)),
        ([0.5], (0, 1, 0)),
        ([0.1, *[0.9] * 19], (0.05, 0.95, 0)),
    ],
    ids=["all the same", "most at the bottom", "one", "most at the top"],
)
def test_what_lies_beside_many_that_are_the_same_has_a_bin(values: list[float], shares: tuple[float, ...]) -> None:
    assert histogram(values).shares == shares


@pytest.mark.runtime
def test_the_manifest_keeps_its_other_lines_and_gets_one_reference(tmp_path: Path) -> None:
    bundle, data = embedded_digits(tmp_path / "models"), make_set(tmp_path / "data", (-6.0, 0.0, 6.0), (-1, 1))
    path = bundle / "manifest.yaml"
    path.write_text(f"# by hand\n{path.read_text()}threads: 1  # one is best\n")
    before = path.read_text()
    made = write_reference(bundle, data)
    assert path.read_text().startswith(before)
    assert load_manifest(path).reference == made
    assert made.samples == len(data.of("validation"))
    assert set(made.classes) == {str(number) for number in range(10)}
    assert len(made.embedding.mean) == 64
    once = path.read_text()
    path.write_text(f"{once.rstrip()}\n# the end")
    assert main([str(bundle.parent), "--data", str(data.folder)]) == 0
    assert (
        path.read_text()
        == f"{once.rstrip().partition('reference:')[0]}# the end\nreference:{once.partition('reference:')[2]}"
    )


@pytest.mark.runtime
def test_the_models_own_data_do_not_drift_and_turned_ones_do(tmp_path: Path) -> None:
    bundle = embedded_digits(tmp_path / "models")
    reference = write_reference(bundle, make_set(tmp_path / "data", (-6.0, 0.0, 6.0), (-1, 0, 1)))
    model, monitor = load_bundle(bundle), DriftMonitor(reference, Drift(window_frames=100, every_s=0.0))

    def show(angle: float) -> None:
        for move in (-1, 0, 1, -1, 0):
            for _, picture in digits():
                evidence = model.run(turned(picture, angle, move), MIN_CONFIDENCE, evidence=True).evidence
                monitor.see(summarize(evidence.found, MIN_CONFIDENCE), evidence.embedding)

    show(3.0)
    assert monitor.figures is not None
    assert not monitor.drifts
    show(50.0)
    assert monitor.drifts


@pytest.mark.runtime
def test_what_can_not_be_measured_is_one_line_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = embedded_digits(tmp_path / "models")
    before = (bundle / "manifest.yaml").read_bytes()
    assert main([str(bundle), "--data", str(tmp_path / "nothing")]) == 4
    assert "reference: " in capsys.readouterr().err
    (bundle / "manifest.yaml").write_text("reference: [")
    with pytest.raises(ModelError):
        write_reference(bundle, make_set(tmp_path / "data", (0.0,)))
    (bundle / "manifest.yaml").write_bytes(before)
