"""The watchdog and the updates of several models, each of which may take a minute to load."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.clock import Clock
from agent.runtime.progress import Progress
from agent.updates.service import UpdateService
from agent.updates.standing import Standing
from agent.updates.store import ModelStore
from agent.updates.updater import ModelUpdate


def test_two_slow_models_in_one_round_are_no_reason_to_end_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_s, stop, progress = 0.0, threading.Event(), Progress()
    stuck: list[str] = []
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + passed_s)

    def start_for_a_minute(update: ModelUpdate) -> float:
        nonlocal passed_s
        passed_s += 59.0
        stuck.extend(progress.stuck())
        if update.model == "parts":  # the last of this round
            stop.set()
        return 0.0

    monkeypatch.setattr(ModelUpdate, "step", start_for_a_minute)

    def stamp() -> dict[str, str]:
        return {"device": "cam-1", "boot": "b", "time": "2026-11-27T00:00:00.000Z", "clock": "synced"}

    standings = [Standing(ModelStore(tmp_path, model), Clock(), stop) for model in ("face", "parts")]
    around: Any = type("Around", (), {"trust": None, "stop": stop})
    UpdateService(standings, around, stamp, lambda _: None, progress).loop(stop)  # type: ignore[arg-type]
    assert passed_s == 118.0
    assert stuck == []
