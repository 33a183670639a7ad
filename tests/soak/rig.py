"""Everything that runs: broker, collector, cameras, operator, and the device with a disk of its own between them."""

import contextlib
import json
import random
import shutil
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest

from tests.power.outbox_disk import LoopDisk, make_image, mounted
from tests.sim import wait_until
from tests.sim.agent import Agent, make_config, make_pipeline
from tests.sim.broker import Broker, Listener
from tests.sim.bundles import make_bundle
from tests.sim.collectors import Collector
from tests.sim.operators import Operator
from tests.sim.processes import children_of
from tests.sim.proxy import FaultProxy
from tests.sim.rtsp import RtspServer
from tests.sim.surroundings import Surroundings
from tests.soak.ledger import Accepted, BrokerKill, acked_by
from tests.soak.meters import SAMPLE_S, Meter

DEVICE = "cam-1"
STREAMS = tuple(f"edge/devices/{DEVICE}/{part}" for part in ("results/#", "events/#", "models/#", "gap"))
DISK_MIB = 64
UPDATE: dict[str, Any] = {"acceptance": {"shadow_frames": 10}, "activation": {"health_window_s": 5, "min_frames": 10}}
"""What a release asks of a device that gets one every minute or so."""
STATUS_S = 5.0


class Ear(Listener):
    """Counts what it hears more than once; keeps nothing else."""

    def __init__(self, port: int) -> None:
        self.arrived = 0
        self.seen: set[int] = set()
        super().__init__("127.0.0.1", port, STREAMS, client_id="ear")

    def _note(self, message: paho.MQTTMessage | None) -> None:
        if message is None:
            super()._note(None)
        else:
            self.arrived += 1
            self.seen.add(json.loads(message.payload)["seq"])

    @property
    def duplicates(self) -> int:
        return self.arrived - len(self.seen)


class Rig:
    """Built and started by entering `stack`; ended by it."""

    def __init__(self, folder: Path, trim: str, rng: random.Random, stack: ExitStack) -> None:
        self.rng, self.folder = rng, folder
        self.broker = stack.enter_context(Broker(folder / "broker", conf="autosave_interval 1"))
        self.proxy = stack.enter_context(FaultProxy(self.broker.port))
        self.camera = stack.enter_context(RtspServer(speed=1.0))
        self.loop = self._mount(stack)
        self.disk = self.loop.at if self.loop else folder / "disk"
        self._before_bytes = self.loop.written_bytes() if self.loop else 0  # loop devices go on counting
        self.around = stack.enter_context(Surroundings(folder / "around", self.disk))
        self.operator = Operator(self.broker)
        self._bundle = folder / "bundle"
        shutil.copytree(make_bundle("face", self.disk) / "face", self._bundle)
        self.agent = Agent(folder, self._config(trim), self.around.environ)
        self.collector = Collector(folder / "collector", self.broker.port)
        self.ear = Ear(self.broker.port)
        stack.callback(self.ear.close)
        self.accepted = Accepted(self.agent.outbox)
        self.kills: list[BrokerKill] = []
        self.frames: dict[str, int] = {}
        """Looked at by a model, by boot; as far as it was seen."""
        self.dropped: dict[str, int] = {}
        """Messages that could not be stored or were evicted, likewise."""
        self.reasons: Counter[str] = Counter()
        """Parts that were not well, in how many looks."""
        self.ended_by_itself: list[str] = []
        self.refused_starts = 0
        """While the disk did not let it write down that it starts; systemd would go on trying."""
        self.disk_fails = False
        self.pushed = 0
        self.meters = [
            Meter("agent", lambda: self.agent.pid if self.agent.running else None),
            Meter("collector", lambda: self.collector.pid if self.collector.running else None),
            Meter("mosquitto", lambda: self.broker.pid if self.broker.running else None),
        ]
        self._sampled_s = self._asked_s = 0.0
        self._never = threading.Event()
        stack.enter_context(self.collector)
        stack.enter_context(self.agent)

    def _mount(self, stack: ExitStack) -> LoopDisk | None:
        """A small ext4 of its own; without the right to mount, a folder that is only told to be full."""
        try:
            return stack.enter_context(mounted(make_image(self.folder / "disk.img", DISK_MIB), self.folder / "disk"))
        except pytest.skip.Exception:
            (self.folder / "disk").mkdir(exist_ok=True)
            return None

    def _config(self, trim: str) -> dict[str, Any]:
        (self.folder / "trust.json").write_bytes(self.operator.authority.trust_file)
        config = make_config(self.folder, self.proxy.port, self.disk / "models")
        config["models"] |= {"trust": str(self.folder / "trust.json"), "healthy_after_s": 2}
        config["telemetry"]["interval_s"] = 5
        config["outbox"] = {
            "dir": str(self.disk / "outbox"),
            "trim": trim,
            "resend_after": "2s",
            "max_bytes": "16MiB",
            "keep_sent": "8MiB",
        }
        stream = {"type": "stream", "url": self.camera.url, "read_timeout_s": 1.0}
        config["pipelines"] = [make_pipeline("door"), make_pipeline("yard", source=stream)]
        return config

    # --- looking --------------------------------------------------------------------------------------------------

    def pause(self, seconds: float) -> None:
        """Let time pass, and look at everything meanwhile."""
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0:
            self.look()
            self._never.wait(min(left_s, 0.25))

    def look(self) -> None:
        now_s = time.monotonic()
        if now_s - self._sampled_s >= SAMPLE_S:
            self._sampled_s = now_s
            self.accepted.look()
            for meter in self.meters:
                meter.take()
        if now_s - self._asked_s >= STATUS_S:
            self._asked_s = now_s
            self._ask()
        if not self.agent.running:
            code, last = self.agent.wait(), self.agent.log_file.read_text().splitlines()[-1]
            if code == 1 and self.disk_fails and last.startswith("edge-agent: outbox.dir: "):
                self.refused_starts += 1
            else:
                self.ended_by_itself.append(f"exit code {code}: {last}")
            self.agent.start()  # as systemd does

    def _ask(self) -> None:
        status = self.agent.status()
        if status:
            boot = status["boot"]
            self.frames[boot] = sum(each["frames_inferred"] for each in status["pipelines"].values())
            self.dropped[boot] = status["outbox"]["dropped"]
            self.reasons.update({reason.partition(":")[0] for reason in status["reasons"]})

    @property
    def written_bytes(self) -> int | None:
        """What reached the device's disk; None when it is none of its own."""
        return self.loop.written_bytes() - self._before_bytes if self.loop else None

    def workers(self) -> list[int]:
        """Processes that run models: those that the agent's forkserver has started."""
        return sorted(worker for child in children_of(self.agent.pid) for worker in children_of(child))

    # --- doing ----------------------------------------------------------------------------------------------------

    def push_update(self) -> None:
        """Lay a new version of the model on the broker; whoever signs it does not wait for the device."""
        self.pushed += 1
        old = next(path for path in self._bundle.iterdir() if path.is_dir())
        new = self.folder / "operator" / f"2027.1.{self.pushed}"
        shutil.copytree(old, new)
        manifest = new / "manifest.yaml"
        manifest.write_text(manifest.read_text().replace(f"version: {old.name}", f"version: {new.name}"))
        wait_until(lambda: self.operator.is_connected, 30, "the operator is connected")
        self.operator.push(new, **UPDATE)
        shutil.rmtree(new)

    def kill_broker(self, away_s: float) -> None:
        """SIGKILL. What it had acknowledged and not passed on is written down, for it may be forgotten now."""
        stored = max(self.collector.stored(DEVICE), default=0)
        self.broker.kill()
        with contextlib.suppress(pytest.fail.Exception):
            self.agent.wait_for_status(lambda status: not status["mqtt"]["connected"], 10)
        self.kills.append(BrokerKill(stored, acked_by(self.agent.outbox)))
        self.pause(away_s)
        self.broker.start()

    def stop_agent(self) -> None:
        """SIGTERM; before it answers anybody, it may just end."""
        answered = bool(self.agent.status())
        code = self.agent.end(signal.SIGTERM)
        if code != 0 and (answered or code != -signal.SIGTERM):
            self.ended_by_itself.append(f"exit code {code} when it was asked to stop")

    def settle(self) -> None:
        """Mend everything, let the device send what it has, and restart it, so that it sends the rest as well."""
        self.around.mend_disk()
        self.around.set_clock(0)
        self.proxy.pass_through()
        for _ in range(60):
            self.pause(2)
            status = self.agent.status()
            if status and status["state"] == "online" and status["outbox"]["pending"] < 50:
                break
        else:
            self.ended_by_itself.append(f"not well again after two minutes: {status.get('reasons')}")
        self.look()
        self.stop_agent()
        self.accepted.look()
        last = max(self.accepted.ids)
        self.agent.start()
        with contextlib.suppress(pytest.fail.Exception):  # the verdict tells
            wait_until(lambda: max(self.collector.stored(DEVICE), default=0) > last + 20, 90)
        self._ask()
        self.collector.end()
