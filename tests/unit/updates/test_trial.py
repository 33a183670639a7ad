"""The trial: bad models end as they are, with a reason code, and neither the caller nor live frames notice much."""

import os
import random
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.errors import UpdateFailed, UpdateRefused
from agent.inference.active import ActiveModel
from agent.inference.locate import find_bundle
from agent.updates import trial as trial_module
from agent.updates.activate import make_active
from agent.updates.trial import Trial
from agent.wire.archive import archive_digest
from agent.wire.releases import REASONS
from tests.sim.bundles import make_bundle, runtime_in_use
from tests.sim.mutants import MUTANTS, mutate
from tests.unit.updates.support import LivePipeline, face_bundle, make_release, variant

pytestmark = pytest.mark.runtime

QUICK = {"shadow_frames": 3, "shadow_s": 10.0}
NO_GOLDEN = {"golden: {dir: golden, min_agreement: 0.99}": ""}
REFUSED_AS = {
    "crash at load": {"crashed", "bundle"},  # with less memory some only fail
    "crash at invoke": {"crashed", "bundle"},  # or are found not to fit the manifest
    "hang": {"hung"},
    "error at load": {"bundle"},
    "error at invoke": {"error"},
    "different": {"golden", "error", "bundle"},
}


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return face_bundle(tmp_path)


@pytest.fixture
def live(bundle: Path, stop: threading.Event) -> Iterator[LivePipeline]:
    live = LivePipeline(ActiveModel(None))
    live.active = make_active(live.spec, bundle, archive_digest(bundle), stop)
    with live:
        yield live


def try_out(folder: Path, sha256: str, live: LivePipeline, stop: threading.Event, **acceptance: object) -> Trial:
    """To the end; raises as the trial does."""
    trial = Trial(folder, sha256, make_release(sha256, acceptance={**QUICK, **acceptance}), [live], stop)
    try:
        while not trial.step(lambda: False):
            assert not stop.is_set()
    finally:
        trial.close()
    return trial


def refusal(folder: Path, sha256: str, live: LivePipeline, stop: threading.Event, **acceptance: object) -> str:
    with pytest.raises(UpdateRefused) as caught:
        try_out(folder, sha256, live, stop, **acceptance)
    assert caught.value.reason_code in REASONS
    assert caught.value.detail
    return caught.value.reason_code


class TestGoodModel:
    def test_passes_and_is_measured(self, bundle: Path, live: LivePipeline, stop: threading.Event) -> None:
        report = try_out(bundle, archive_digest(bundle), live, stop, min_shadow_agreement=0.9).report
        assert (report.golden_agreement, report.shadow_frames, report.shadow_agreement) == (1.0, 3, 1.0)
        assert report.infer_ms is not None
        assert report.infer_ms > 0
        assert report.peak_memory_bytes > 1 << 20
        assert live.troubles == []

    def test_needs_no_live_frames(self, bundle: Path, stop: threading.Event) -> None:
        """A source that is away does not hold up an update."""
        live = LivePipeline(ActiveModel(None))
        trial = try_out(bundle, archive_digest(bundle), live, stop, shadow_s=0.1, min_shadow_agreement=1.0)
        assert (trial.report.shadow_frames, trial.report.shadow_agreement) == (0, None)

    def test_of_gray_frames_passes_too(self, bundle: Path, stop: threading.Event) -> None:
        live = LivePipeline(ActiveModel(None), image=np.full((90, 160), 127, np.uint8))
        live.active = make_active(live.spec, bundle, None, stop)
        with live:
            assert try_out(bundle, archive_digest(bundle), live, stop).report.shadow_frames == 3

    def test_leaves_no_process(self, bundle: Path, live: LivePipeline, stop: threading.Event) -> None:
        trial = try_out(bundle, archive_digest(bundle), live, stop)
        assert trial._worker is not None
        assert not trial._worker.alive

    def test_comes_back_early_when_something_else_came(
        self, bundle: Path, live: LivePipeline, stop: threading.Event
    ) -> None:
        sha256 = archive_digest(bundle)
        trial = Trial(bundle, sha256, make_release(sha256, acceptance=QUICK), [live], stop)
        steps = 1
        while not trial.step(lambda: True):
            steps += 1
        assert steps > 10  # starts of workers, pictures, golden samples, live frames

    def test_is_not_decided_on_when_the_agent_stops(
        self, bundle: Path, live: LivePipeline, stop: threading.Event
    ) -> None:
        sha256 = archive_digest(bundle)
        trial = Trial(bundle, sha256, make_release(sha256), [live], stop)
        assert not trial.step(lambda: True)
        stop.set()
        assert not trial.step(lambda: False)
        trial.close()


class TestBadModel:
    @pytest.mark.parametrize("name", sorted(MUTANTS))
    def test_ends_as_its_kind_says(self, name: str, bundle: Path, live: LivePipeline, stop: threading.Event) -> None:
        recipe = MUTANTS[name]
        outcomes = {("ai-edge-litert", "2.3.0"): recipe.litert, ("tflite-runtime", "2.14.0"): recipe.tflite_runtime}
        if runtime_in_use() not in outcomes:
            pytest.skip("the mutants were not tried on this runtime")
        folder, sha256 = variant(bundle, "bad", mutate((bundle / "model.tflite").read_bytes(), recipe))
        code = "passed"
        try:
            try_out(folder, sha256, live, stop)
        except UpdateRefused as exc:
            code = exc.reason_code
        outcome = outcomes[runtime_in_use()]
        if name == "endless_when_bright":
            assert code == "golden"  # it finds no faces
        elif name in {"slow", "hungry"}:  # with the manifest's limit of memory they do not load, or need less
            assert code in {"bundle", "memory", "error", "crashed", *(["passed"] if outcome == "works" else [])}
        elif outcome == "works":
            assert code == "passed"
        else:
            assert code in REFUSED_AS[outcome]
        before = live.answered
        while live.answered < before + 3:  # live frames go on
            assert live.troubles == []

    def test_that_takes_another_input_is_refused(self, bundle: Path, live: LivePipeline, stop: threading.Event) -> None:
        assert refusal(*variant(bundle, "wide", edit={"width_px: 128": "width_px: 192"}), live, stop) == "bundle"

    def test_of_another_name_is_refused(self, bundle: Path, live: LivePipeline, stop: threading.Event) -> None:
        assert refusal(*variant(bundle, "other", edit={"name: face": "name: feet"}), live, stop) == "bundle"

    def test_that_is_no_model_is_refused(self, bundle: Path, live: LivePipeline, stop: threading.Event) -> None:
        assert refusal(*variant(bundle, "zip", b"PK\3\4"), live, stop) == "bundle"
        assert refusal(*variant(bundle, "edited", edit={"task: detect": "task: guess"}), live, stop) == "bundle"

    def test_that_is_slow_is_refused(self, bundle: Path, live: LivePipeline, stop: threading.Event) -> None:
        """The release's limit comes before the manifest's."""
        assert refusal(bundle, archive_digest(bundle), live, stop, max_infer_ms=0.001) == "slow"
        folder, sha256 = variant(bundle, "slow", edit={"max_infer_ms: 500": "max_infer_ms: 0.001"})
        assert refusal(folder, sha256, live, stop) == "slow"
        try_out(folder, sha256, live, stop, max_infer_ms=500)

    def test_that_takes_too_much_memory_is_refused(
        self, bundle: Path, live: LivePipeline, stop: threading.Event
    ) -> None:
        assert refusal(bundle, archive_digest(bundle), live, stop, max_memory_bytes=1 << 20) == "memory"

    def test_whose_golden_samples_are_broken_or_missing_is_refused(
        self, bundle: Path, live: LivePipeline, stop: threading.Event
    ) -> None:
        folder, _ = variant(bundle, "broken")
        (folder / "golden" / "face.jpg").write_bytes(b"no picture")
        assert refusal(folder, archive_digest(folder), live, stop) == "golden"
        without, sha256 = variant(bundle, "without", edit=NO_GOLDEN)
        assert refusal(without, sha256, live, stop, min_agreement=0.5) == "golden"
        assert try_out(without, sha256, live, stop).report.golden_agreement is None

    def test_may_differ_from_the_one_in_use_unless_the_release_forbids_it(
        self, bundle: Path, live: LivePipeline, stop: threading.Event
    ) -> None:
        blind = mutate((bundle / "model.tflite").read_bytes(), MUTANTS["blind"])
        folder, sha256 = variant(bundle, "blind", blind, edit=NO_GOLDEN)
        assert try_out(folder, sha256, live, stop).report.shadow_agreement == 0.0
        assert live.disagreements
        assert refusal(folder, sha256, live, stop, min_shadow_agreement=0.5) == "shadow"

    def test_that_hangs_on_a_live_frame_is_refused(
        self, bundle: Path, stop: threading.Event, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(trial_module, "_PATIENCE_S", 1.0)
        endless = mutate((bundle / "model.tflite").read_bytes(), MUTANTS["endless_when_bright"])
        folder, sha256 = variant(bundle, "endless", endless, edit=NO_GOLDEN)
        live = LivePipeline(ActiveModel(None), image=np.full((128, 128, 3), 255, np.uint8))
        live.active = make_active(live.spec, bundle, None, stop)
        with live:
            assert refusal(folder, sha256, live, stop) == "hung"


class TestDevice:
    """What is not the model's fault may pass, and is not held against it."""

    def test_files_that_changed_on_the_disk(self, bundle: Path, live: LivePipeline, stop: threading.Event) -> None:
        folder, sha256 = variant(bundle, "rotten")
        data = bytearray((folder / "model.tflite").read_bytes())
        data[1000] ^= 1
        (folder / "model.tflite").write_bytes(data)
        with pytest.raises(UpdateFailed, match="storage"):
            try_out(folder, sha256, live, stop)

    def test_a_worker_that_is_killed_from_outside(
        self, bundle: Path, live: LivePipeline, stop: threading.Event
    ) -> None:
        """As the kernel does when memory is short."""
        sha256 = archive_digest(bundle)
        trial = Trial(bundle, sha256, make_release(sha256), [live], stop)
        trial.step(lambda: True)
        assert trial._worker is not None
        os.kill(trial._worker.pid or 0, signal.SIGKILL)
        with pytest.raises(UpdateFailed, match="out of memory"):
            trial.step(lambda: False)


def random_change(model: bytes, rng: random.Random) -> bytes:
    """As the disks and networks of the fuzzing that tests/sim/mutants.py tells of: cut, bits, blocks, the structure."""
    data = bytearray(model)
    kind = rng.choice(["cut", "bits", "zeros", "structure", "structure"])
    if kind == "cut":
        return bytes(data[: rng.randrange(len(data))])
    if kind == "zeros":
        at = rng.randrange(len(data) - 4096)
        data[at : at + 4096] = bytes(4096)
        return bytes(data)
    first = 200_000 if kind == "structure" else 0  # weights come first in this file
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(first, len(data))] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
    return bytes(data)


@pytest.mark.parametrize(
    ("first", "count"), [(0, 10), pytest.param(10, 500, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])]
)
def test_whatever_becomes_of_the_bytes_a_trial_ends(
    first: int, count: int, bundle: Path, live: LivePipeline, stop: threading.Event
) -> None:
    """Passed, or a reason code; the live model goes on."""
    model = (bundle / "model.tflite").read_bytes()
    ends: dict[str, int] = {}
    for seed in range(first, first + count):
        folder, sha256 = variant(bundle, f"mutant-{seed}", random_change(model, random.Random(seed)))
        try:
            try_out(folder, sha256, live, stop)
            end = "passed"
        except UpdateRefused as exc:
            end = exc.reason_code
            assert end in REASONS
        ends[end] = ends.get(end, 0) + 1
    print(ends)
    assert sum(ends.values()) == count
    assert live.troubles == []


def test_a_model_of_another_task_can_be_tried(tmp_path: Path, stop: threading.Event) -> None:
    """Classes instead of boxes, without golden samples or limits."""
    digits = find_bundle(make_bundle("digits", tmp_path), "digits")
    sha256 = archive_digest(digits)
    live = LivePipeline(ActiveModel(None), model="digits")
    release = make_release(sha256, model="digits", acceptance={"shadow_frames": 3})
    live.active = make_active(live.spec, digits, sha256, stop)
    with live:
        trial = Trial(digits, sha256, release, [live], stop)
        while not trial.step(lambda: False):
            assert not stop.is_set()
    assert trial.report.shadow_agreement == 1.0
