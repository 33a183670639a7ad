"""Going live: all pipelines or none, without losing a frame, and the watch that follows."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from agent.config import Delegate
from agent.errors import UpdateFailed, UpdateRefused
from agent.inference.active import ActiveModel
from agent.updates.activate import HealthWatch, activate, make_active
from agent.wire.archive import archive_digest
from agent.wire.releases import Activation
from tests.sim import wait_until
from tests.sim.mutants import MUTANTS, mutate
from tests.unit.updates.support import LivePipeline, face_bundle, variant

pytestmark = pytest.mark.runtime


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return face_bundle(tmp_path)


@pytest.fixture
def lives(bundle: Path, stop: threading.Event) -> Iterator[list[LivePipeline]]:
    """Two pipelines that run."""
    with ExitStack() as stack:
        lives = []
        for name in ("door", "gate"):
            live = LivePipeline(ActiveModel(None), name=name)
            live.active = make_active(live.spec, bundle, archive_digest(bundle), stop)
            lives.append(stack.enter_context(live))
        for live in lives:
            wait_until(lambda live=live: live.answered > 2)
        yield lives


def bad(bundle: Path, mutant: str) -> tuple[Path, str]:
    return variant(bundle, mutant, mutate((bundle / "model.tflite").read_bytes(), MUTANTS[mutant]))


def watch(
    lives: list[LivePipeline],
    max_infer_ms: float | None = None,
    before_ms: Any = MappingProxyType({}),
    **fields: object,
) -> HealthWatch:
    activation = msgspec.convert({"health_window_s": 0.0, "min_frames": 5, **fields}, Activation)
    return HealthWatch(activation, lives, max_infer_ms, before_ms)


class TestActivate:
    def test_all_pipelines_get_the_new_one_and_no_frame_is_lost(
        self, bundle: Path, lives: list[LivePipeline], stop: threading.Event
    ) -> None:
        folder, sha256 = variant(bundle, "2", edit={"version: 2026.11.1": "version: '2'"})
        old = [live.active.pid for live in lives]
        activate(lives, folder, sha256, stop)
        for live in lives:
            assert live.active.sha256 == sha256
            assert live.active.info is not None
            assert live.active.info.version == "2"
            before = live.answered
            wait_until(lambda live=live, before=before: live.answered > before + 3)
            assert live.troubles == []
            live.active.close_retired(20)
        assert not any(Path(f"/proc/{pid}").exists() for pid in old)

    def test_a_lost_worker_is_replaced_by_one_of_the_new_bundle(
        self, bundle: Path, lives: list[LivePipeline], stop: threading.Event
    ) -> None:
        folder, sha256 = variant(bundle, "2", edit={"version: 2026.11.1": "version: '2'"})
        activate(lives, folder, sha256, stop)
        live = lives[0]
        os.kill(live.active.pid or 0, signal.SIGKILL)
        wait_until(lambda: live.active.restarts == 1)
        before = live.answered
        wait_until(lambda: live.answered > before)
        assert live.active.info is not None
        assert live.active.info.version == "2"

    @pytest.mark.parametrize("mutant", ["half", "error_load"])
    def test_one_that_can_not_be_loaded_changes_nothing(
        self, mutant: str, bundle: Path, lives: list[LivePipeline], stop: threading.Event
    ) -> None:
        before = [(live.active.pid, live.active.sha256) for live in lives]
        with pytest.raises(UpdateRefused, match="bundle"):
            activate(lives, *bad(bundle, mutant), stop)
        assert [(live.active.pid, live.active.sha256) for live in lives] == before

    def test_a_failure_of_the_last_pipeline_leaves_the_first_as_it_was(
        self, bundle: Path, lives: list[LivePipeline], stop: threading.Event
    ) -> None:
        lives[1].spec = msgspec.structs.replace(lives[1].spec, delegate=Delegate(library="libnone.so"))
        pids = [live.active.pid for live in lives]
        with pytest.raises(UpdateRefused, match=r"libnone\.so"):
            activate(lives, *variant(bundle, "2"), stop)
        assert [live.active.pid for live in lives] == pids

    def test_files_that_changed_on_the_disk_are_the_devices_fault(
        self, bundle: Path, lives: list[LivePipeline], stop: threading.Event
    ) -> None:
        folder, sha256 = variant(bundle, "2")
        (folder / "labels.txt").write_text("other\n")
        with pytest.raises(UpdateFailed, match="storage"):
            activate(lives, folder, sha256, stop)

    def test_without_a_model_before(self, bundle: Path, stop: threading.Event) -> None:
        live = LivePipeline(make_active(LivePipeline(ActiveModel(None)).spec, None, None, stop))
        with live:
            wait_until(lambda: live.troubles)
            assert "waiting for a release" in live.troubles[0]
            activate([live], bundle, archive_digest(bundle), stop)
            wait_until(lambda: live.answered > 3)


class TestHealthWatch:
    def test_is_over_when_time_and_frames_are(self, lives: list[LivePipeline]) -> None:
        assert not watch(lives, health_window_s=3600.0, min_frames=0).check()
        due = watch(lives, health_window_s=0.2, min_frames=20)
        assert not due.check()
        wait_until(due.check)

    def test_does_not_wait_for_ever_for_frames(self, bundle: Path, stop: threading.Event) -> None:
        """A pipeline that is off, or whose source is away."""
        off = LivePipeline(make_active(LivePipeline(ActiveModel(None)).spec, bundle, None, stop))
        due = watch([off], health_window_s=0.05, min_frames=1000)
        wait_until(due.check)

    def test_a_crash_ends_it(self, lives: list[LivePipeline]) -> None:
        ongoing, patient = watch(lives, health_window_s=3600.0), watch(lives, health_window_s=3600.0, max_crashes=1)
        assert not ongoing.check()
        os.kill(lives[0].active.pid or 0, signal.SIGSEGV)
        wait_until(lambda: lives[0].active.losses)
        with pytest.raises(UpdateRefused, match=r"crashed.*SIGSEGV"):
            ongoing.check()
        assert not patient.check()

    def test_what_was_before_does_not_count(self, lives: list[LivePipeline]) -> None:
        os.kill(lives[0].active.pid or 0, signal.SIGSEGV)
        wait_until(lambda: lives[0].active.restarts)
        wait_until(watch(lives).check)

    def test_frames_without_an_answer_end_it(self, lives: list[LivePipeline]) -> None:
        """Also when another pipeline of the model is well."""
        ongoing = watch(lives, health_window_s=3600.0, max_error_rate=0.5)
        lives[1].metrics.frames_failed += 10_000
        with pytest.raises(UpdateRefused, match="health: gate"):
            ongoing.check()

    def test_a_few_failed_frames_are_judged_at_the_end(self, lives: list[LivePipeline]) -> None:
        one = LivePipeline(lives[0].active)  # its frames do not come
        ongoing, over = watch([one], health_window_s=3600.0), watch([one], min_frames=0)
        one.metrics.frames_failed += 3
        assert not ongoing.check()
        with pytest.raises(UpdateRefused, match="health: door: 3 of 3"):
            over.check()

    def test_one_that_is_slow_is_found_out_at_the_end(self, lives: list[LivePipeline]) -> None:
        wait_until(lambda: all(live.active.median_ms() for live in lives))
        due = watch(lives, max_infer_ms=0.0001)
        with pytest.raises(UpdateRefused, match="slow: door"):
            wait_until(due.check)

    def test_slower_than_the_one_before(self, bundle: Path, lives: list[LivePipeline], stop: threading.Event) -> None:
        wait_until(lambda: all(live.active.median_ms() for live in lives))
        before_ms = {live.name: live.active.median_ms() for live in lives}
        activate(lives, *variant(bundle, "2"), stop)
        wait_until(lambda: all(live.active.median_ms() for live in lives))
        with pytest.raises(UpdateRefused, match="slow"):
            wait_until(watch(lives, before_ms=before_ms, max_latency_ratio=0.001).check)
        wait_until(watch(lives, before_ms=before_ms, max_latency_ratio=1000.0).check)
        wait_until(watch(lives, max_latency_ratio=0.001).check)  # where nothing ran before

    def test_closes_workers_that_were_swapped_out(
        self, bundle: Path, lives: list[LivePipeline], stop: threading.Event
    ) -> None:
        ongoing = watch(lives, health_window_s=3600.0)
        old = lives[0].active.current()
        worker = make_active(lives[0].spec, bundle, None, stop).current()
        lives[0].active.swap(worker)

        def is_closed() -> bool:
            ongoing.check()
            return not old.alive

        wait_until(is_closed)
