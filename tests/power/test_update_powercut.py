"""A power cut at any moment of an update: the device goes on with a good model, and forgets no release it accepted.

The daemon is stopped, the quiet block device is copied, and the copy is mounted, as for the outbox. Assumes a device
that honours flushes.
"""

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pytest

from tests.power.outbox_disk import make_image, mounted
from tests.power.update_rig import UpdateRig, push_one_more, report
from tests.sim.broker import Broker
from tests.sim.bundles import make_bundle

pytestmark = pytest.mark.runtime


@pytest.mark.timeout(240)
def test_two_cuts(tmp_path: Path) -> None:
    cut_many(tmp_path, 2, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_sixty_cuts(tmp_path: Path) -> None:
    cut_many(tmp_path, 60, seed=2)


def cut_many(folder: Path, times: int, seed: int) -> None:
    rng = random.Random(seed)
    image, at = make_image(folder / "disk0.img", 96), folder / "mnt"
    states: Counter[str] = Counter()
    with Broker(folder / "broker") as broker:
        with mounted(image, at):
            make_bundle("face", at)
            rig = UpdateRig(folder, broker, at)
            os.sync()
        for turn in range(times):
            after = folder / f"disk{turn + 1}.img"
            with mounted(image, at) as disk:
                if rig.is_idle() or rng.random() < 0.1:
                    rig.push_any(rng)
                with rig.agent:
                    rig.check_running()
                    if turn % 3 == 2:  # or it would go without inference
                        rig.wait_until_start_is_good()
                    rig.live_for(rng.uniform(0.0, 2.0))
                    os.kill(rig.agent.pid, signal.SIGSTOP)
                    disk.copy_as_after_a_power_cut(after)
            image.unlink()
            image = after
            with mounted(image, at):
                states[rig.check_at_rest()] += 1
        with mounted(image, at):
            with rig.agent:
                rig.check_running()
                push_one_more(rig)
            print(report(rig, states, "cuts"))
    rig.assert_all_held()
