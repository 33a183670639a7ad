"""The watchdog and the updates of several models, each of which may take a minute to load."""

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from agent.errors import UpdateFailed
from agent.runtime.clock import Clock
from agent.runtime.progress import Progress
from agent.updates import standing
from agent.updates.service import UpdateService
from agent.updates.standing import Standing
from agent.updates.store import ModelStore
from agent.updates.updater import ModelUpdate
from tests.power.store_writer import MODEL
from tests.property.test_update_path import Device, SimulatedTrial, simulated_workers

__all__ = ["simulated_workers"]


def stamp() -> dict[str, str]:
    return {"device": "cam-1", "boot": "b", "time": "2026-11-27T00:00:00.000Z", "clock": "synced"}


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
    standings = [Standing(ModelStore(tmp_path, model), Clock(), stop) for model in ("face", "parts")]
    around: Any = type("Around", (), {"trust": None, "stop": stop})
    UpdateService(standings, around, stamp, lambda _: None, progress).loop(stop)  # type: ignore[arg-type]
    assert passed_s == 118.0
    assert stuck == []


def test_neither_is_a_way_back_that_hangs_before_a_trial_that_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passed_s, progress = 0.0, Progress()
    stuck: list[str] = []
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + passed_s)

    def hang(*_: Any) -> None:
        nonlocal passed_s
        passed_s += 59.0
        stuck.extend(progress.stuck())
        raise UpdateFailed("hung", "no answer in 60 s")

    device = Device(tmp_path)
    service = UpdateService([device.update.at], device.update._around, stamp, lambda _: None, progress)  # type: ignore[arg-type]
    update = service.by_model[MODEL]
    update.take(device.sign("good", "1.0").raw)
    while update.at.candidate.state != "trial":
        service._step(update)
    update.at._in_use = None  # what should run does not, since the last release was taken back
    monkeypatch.setattr(standing, "activate", hang)
    monkeypatch.setattr(SimulatedTrial, "step", hang)
    service._step(update)
    assert passed_s >= 2 * 59.0
    assert stuck == []
