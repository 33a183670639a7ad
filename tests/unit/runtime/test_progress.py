"""Signs of life for the watchdog."""

import time

import pytest

from agent.runtime import progress as module
from agent.runtime.progress import Progress


def test_a_loop_that_beats_is_not_stuck() -> None:
    progress = Progress()
    progress.beat("infer.door")
    assert [] == progress.stuck()


def test_a_loop_that_stays_silent_for_too_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    progress = Progress()
    progress.beat("infer.door")
    progress.beat("publish")
    later = time.monotonic() + module.STALE_AFTER_S + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    progress.beat("publish")
    assert ["infer.door"] == progress.stuck()
    progress.beat("infer.door")
    assert [] == progress.stuck()
