"""kill -9 at any moment of an update: the device goes on where it was, and frames are answered by a good model."""

import json
import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.starts import REVERT_AFTER, SAFE_MODE_AFTER
from tests.power.update_rig import BRANCH, HASTE, TOO_SLOW, UpdateRig, push_one_more, report
from tests.sim import wait_until
from tests.sim.broker import Broker
from tests.sim.bundles import make_bundle

pytestmark = pytest.mark.runtime

ORDER = ("offered", "receiving", "verifying", "staged", "trial", "active", "rejected", "rolled_back")
WAYS: dict[str, dict[str, Any]] = {
    "offered": {"spread_s": 2.0},
    "trial": {"acceptance": {"shadow_frames": 20}},
    "active": {"activation": {"health_window_s": 1.5, "min_frames": 3}},
}
"""What makes a state last."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpdateRig]:
    """One device for all the tests that leave it in order."""
    folder = tmp_path_factory.mktemp("device")
    make_bundle("face", folder)
    with Broker(folder / "broker") as broker:
        rig = UpdateRig(folder, broker, folder)
        yield rig
        rig.agent.kill()


@pytest.fixture
def rig(shared: UpdateRig) -> UpdateRig:
    """It runs, whatever the last test did."""
    shared.agent.kill()
    shared.agent.start()
    shared.check_running()
    shared.wait_until_start_is_good()
    return shared


class TestKilledInEachState:
    @pytest.mark.parametrize("state", ["offered", "receiving", "verifying", "staged", "trial", "active"])
    def test_it_goes_on_and_the_release_is_confirmed(self, rig: UpdateRig, state: str) -> None:
        number, version = kill_in(rig, state)
        rig.agent.start()
        ended = rig.operator.wait_until_ended(number)
        assert ended["candidate"]["state"] == "active", ended
        wait_until(lambda: rig.check_running() == version, 20, "the new version answers")
        rig.assert_all_held()

    def test_what_waits_for_another_try_still_waits(self, rig: UpdateRig) -> None:
        incoming = rig.home / ".incoming"
        shutil.rmtree(incoming, ignore_errors=True)
        incoming.write_text("in the way")
        number = rig.push(rig.make())
        wait_until(lambda: rig.state(number) == "failed", 20)
        kill(rig)
        incoming.unlink()
        rig.agent.start()
        rig.check_running()
        assert rig.state(number) == "failed"
        push_one_more(rig)
        rig.assert_all_held()

    @pytest.mark.parametrize("state", ["rejected", "rolled_back"])
    def test_a_bad_release_stays_out(self, rig: UpdateRig, state: str) -> None:
        before = rig.check_running()
        bundle = rig.make("half" if state == "rejected" else None)
        number = rig.push(bundle, **(TOO_SLOW if state == "rolled_back" else HASTE))
        wait_until(lambda: rig.state(number) == state, 30)
        kill(rig)
        rig.agent.start()
        assert rig.check_running() == before
        assert rig.state(number) == state
        assert rig.digests[bundle.name] in rig.record().quarantine
        rig.assert_all_held()


def test_three_starts_without_proving_itself_bring_the_version_before_back(rig: UpdateRig) -> None:
    before = rig.check_running()
    bundle = rig.make()
    number = rig.push(bundle, activation={"health_window_s": 600})
    crash_until_taken_back(rig, number)
    assert rig.check_running() == before
    candidate = rig.record().candidate
    assert candidate
    assert (candidate.state, candidate.reason_code) == ("rolled_back", "crash_loop")
    rig.assert_all_held()


def test_what_was_taken_back_at_a_start_is_not_taken_for_changed_by_hand(rig: UpdateRig) -> None:
    before = rig.check_running()
    bundle = rig.make()
    crash_until_taken_back(rig, rig.push(bundle, activation={"health_window_s": 600}))
    number = rig.push(bundle, retry=True, spread_s=600)
    wait_until(lambda: rig.state(number) == "offered", 20)
    kill(rig)
    rig.agent.start()
    assert rig.check_running() == before


def crash_until_taken_back(rig: UpdateRig, number: int) -> None:
    for starts in range(1, REVERT_AFTER + 1):
        wait_until(lambda starts=starts: is_watched(rig, number, starts), 30, f"start {starts}")  # type: ignore[misc]
        kill(rig)
        rig.agent.start()
    rig.check_running()


def is_watched(rig: UpdateRig, number: int, starts: int) -> bool:
    """The release is live, for the so many-th start."""
    candidate = rig.record().candidate
    return candidate is not None and rig.state(number) == "active" and candidate.tries == starts


def kill(rig: UpdateRig) -> str:
    """Gives the state in which it was."""
    rig.agent.kill()
    return rig.check_at_rest()


def kill_in(rig: UpdateRig, state: str) -> tuple[int, str]:
    """Push releases until one dies in this state; gives its number and version."""
    for _ in range(10):
        bundle = rig.make(padding_bytes=6 << 20)
        number = rig.push(bundle, **WAYS.get(state, {}))
        for _ in range(2):  # staged is short, but not after a restart during the trial
            later = ORDER[ORDER.index(state) :]
            wait_until(lambda number=number, later=later: rig.state(number) in later, 30)  # type: ignore[misc]
            if kill(rig) == state:
                return number, bundle.name
            rig.agent.start()
        rig.operator.wait_until_ended(number)
    pytest.fail(f"it is never killed in {state}")


# --- at any moment ------------------------------------------------------------------------------------------------


@pytest.mark.timeout(240)
def test_eight_kills_at_random(tmp_path: Path) -> None:
    kill_many(tmp_path, 8, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_kills_at_random(tmp_path: Path) -> None:
    kill_many(tmp_path, 200, seed=2)


def kill_many(folder: Path, times: int, seed: int) -> None:
    rng = random.Random(seed)
    make_bundle("face", folder)
    states: Counter[str] = Counter()
    with Broker(folder / "broker") as broker:
        rig = UpdateRig(folder, broker, folder)
        for turn in range(times):
            if rig.is_idle() or rng.random() < 0.1:
                rig.push_any(rng)
            with rig.agent:
                if turn % 3 == 2:  # or it would go without inference
                    rig.check_running()
                    rig.wait_until_start_is_good()
                elif rng.random() < 0.6:
                    rig.check_running()
                rig.live_for(rng.uniform(0.0, 2.0))
            states[rig.check_at_rest()] += 1
        with rig.agent:
            rig.check_running()
            push_one_more(rig)
        print(report(rig, states, "kills"))
    rig.assert_all_held()


# --- safe mode ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["the command restart", pytest.param("a stop and a start", marks=pytest.mark.slow)])
def test_after_six_bad_starts_it_can_be_reached_and_infers_nothing(tmp_path: Path, way: str) -> None:
    make_bundle("face", tmp_path)
    with Broker(tmp_path / "broker") as broker:
        rig = UpdateRig(tmp_path, broker, tmp_path, healthy_after_s=60)
        starts = rig.agent.outbox / "starts"
        for count in range(1, SAFE_MODE_AFTER + 1):
            with rig.agent:
                wait_until(lambda count=count: starts.exists() and b": %d}" % count in starts.read_bytes(), 30)  # type: ignore[misc]
        ear = broker.listen(f"{BRANCH}/status", f"{BRANCH}/telemetry", f"{BRANCH}/results/#")
        with rig.agent:
            boot = rig.agent.wait_for_status(lambda status: status["mqtt"]["connected"])["boot"]
            ear.wait_for(lambda _: len(of_boot(ear.payloads(f"{BRANCH}/telemetry"), boot)) >= 3)
            status = of_boot(ear.payloads(f"{BRANCH}/status"), boot)[-1]
            assert status["state"] == "degraded"
            assert any("safe mode" in reason for reason in status["reasons"])
            assert [] == of_boot(ear.payloads(f"{BRANCH}/results/door"), boot)
            if way == "the command restart":
                ear.publish(f"{BRANCH}/commands/restart")
            else:
                assert rig.agent.end() == 0
                rig.agent.start()
            rig.agent.wait_for_status(lambda status: status["boot"] != boot)
            rig.check_running()
            rig.agent.wait_for_status(lambda status: status["state"] == "online")


def of_boot(payloads: list[bytes], boot: str) -> list[dict[str, Any]]:
    return [said for said in map(json.loads, payloads) if said["boot"] == boot]
