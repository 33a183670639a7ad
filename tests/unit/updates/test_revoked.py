"""What a trust document revokes does not go on, whatever comes between."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.errors import UpdateFailed
from agent.runtime.progress import Progress
from agent.updates import service as service_module
from agent.updates import standing
from agent.updates.service import UpdateService
from agent.updates.verify import open_trust
from agent.wire.messages import ModelState
from tests.property.test_update_path import Device, simulated_activate, simulated_workers
from tests.sim import wait_until

__all__ = ["simulated_workers"]


@pytest.fixture
def device(tmp_path: Path) -> Device:
    """It runs 2.0, and could go back to 1.0."""
    device = Device(tmp_path)
    for version in ("1.0", "2.0"):
        device.offer(device.sign("good", version))
        device.work()
    return device


def test_an_agent_that_ended_before_it_obeyed_does_so_at_its_start(device: Device) -> None:
    trust = device.update._around.trusted()
    trust.accept(*open_trust(revoke_the_newest(device), trust.current()))
    device.restart()  # the power went: the document is durable, and the record still has the revoked bundle
    run(device, lambda service, said: said[-1:] == ["1.0"])


def test_what_can_not_be_obeyed_now_is_obeyed_later(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy device can't start the version before; that ends neither the thread nor the matter."""
    tries: list[object] = []

    def busy_at_first(*args: Any) -> None:
        tries.append(args)
        if len(tries) == 1:
            raise UpdateFailed("hung", "no answer in 60 s")
        simulated_activate(*args)

    monkeypatch.setattr(standing, "activate", busy_at_first)
    monkeypatch.setattr(service_module, "_OBEY_AGAIN_S", 0.0, raising=False)
    raw = revoke_the_newest(device)
    device.restart()
    run(device, lambda service, said: said[-1:] == ["1.0"], raw)
    assert len(tries) == 2


def test_what_has_not_changed_is_not_told_again(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each message is one of the durable stream: not two at each start, nor one with each try of what fails."""
    tries: list[object] = []
    told: list[str] = []

    def busy(*args: Any) -> None:
        tries.append(args)
        raise UpdateFailed("hung", "no answer in 60 s")

    monkeypatch.setattr(standing, "activate", busy)
    monkeypatch.setattr(service_module, "_OBEY_AGAIN_S", 0.0)
    trust = device.update._around.trusted()
    trust.accept(*open_trust(revoke_the_newest(device), trust.current()))
    device.restart()

    def is_tried_again(service: UpdateService, said: list[str]) -> bool:
        service.ask(lambda: None)  # a round
        told[:] = said
        return len(tries) > 2

    run(device, is_tried_again)
    assert told == ["2.0"]


def revoke_the_newest(device: Device) -> bytes:
    return device.authority.advance(revoked=[device.pushed[-1].sha256])


def run(device: Device, until: Callable[[UpdateService, list[str]], bool], trust: bytes | None = None) -> None:
    """The updates thread, with a trust document that comes, until it said which version runs as is expected."""
    said: list[str] = []

    def tell(state: ModelState) -> None:
        if state.active:
            said.append(state.active.version)

    def stamp() -> dict[str, str]:
        return {"device": "cam-1", "boot": "b", "time": "2026-11-27T00:00:00.000Z", "clock": "synced"}

    update = device.update
    service = UpdateService([update.at], update._around, stamp, tell, Progress())  # type: ignore[arg-type]
    if trust:
        service._offers["_trust"] = trust
    ended: list[BaseException] = []

    def loop() -> None:
        try:
            service.loop(update._around.stop)
        except BaseException as exc:  # noqa: BLE001 - it would end the daemon
            ended.append(exc)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        wait_until(lambda: bool(ended) or until(service, said), 10, f"it went on with {said}")
    finally:
        update._around.stop.set()
        thread.join(10)
    assert ended == []
