"""Correctly signed models that are bad: none of them stays, and none costs the agent more than a trial.

What is tried here is the last line of defence: whoever holds the keys has signed these bytes.
"""

import dataclasses
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from agent.updates.record import Record, load_record
from agent.updates.standing import TO_BLAME
from tests.sim.agent import Agent, make_config, make_pipeline
from tests.sim.broker import Broker
from tests.sim.bundles import ROOT, home_of, make_bundle, model_path, runtime_in_use
from tests.sim.mutants import MUTANTS, mutate
from tests.sim.operators import Operator

pytestmark = pytest.mark.runtime

BRANCH = "edge/devices/cam-1"
OLD, BAD = "2026.11.1", "2026.12.1"
HASTE = {"acceptance": {"shadow_frames": 3}, "activation": {"health_window_s": 1, "min_frames": 3}}
"""What a release asks of a device whose test should be over soon."""
FITTING = {"crash": "crashed", "hang": "hung", "error at load": "bundle", "error at invoke": "error", "diff": "golden"}
"""Reason codes by the beginning of how a model ends."""
IN_STRUCTURE = 206_000
"""Before this offset the face model has weights, after it what they are for."""

State = dict[str, Any]


class HastyAgent(Agent):
    """Looks at any number of releases a minute."""

    def start(self, **environ: str) -> None:
        code = "from agent import __main__ as a; from agent.updates import service as s; s.MAX_PER_MINUTE = 1 << 20"
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"{code}; raise SystemExit(a.main())", "run", "--config", str(self.config_file)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environ},
            )


@dataclasses.dataclass
class Bench:
    """A device, its operator, and somebody who hears all that the device tells."""

    folder: Path
    broker: Broker
    config: dict[str, Any]

    def __post_init__(self) -> None:
        self.operator = Operator(self.broker)
        (self.folder / "trust.json").write_bytes(self.operator.authority.trust_file)
        self.config["models"]["trust"] = str(self.folder / "trust.json")
        self._results = self.broker.listen(f"{BRANCH}/results/door")
        self._telemetry = self.broker.listen(f"{BRANCH}/telemetry")
        self.agent = Agent(self.folder, self.config)

    def make_version(self, model: bytes, version: str = BAD, *, golden: bool = True, limits: bool = True) -> Path:
        """The bundle that the agent has, with another model, and on request without parts of its manifest."""
        new = self.folder / "operator" / version
        new.mkdir(parents=True)
        old = home_of("face") / OLD
        lines = (old / "manifest.yaml").read_text().replace(f"version: {OLD}", f"version: {version}").splitlines()
        left_out = tuple(key for key, is_kept in (("golden:", golden), ("limits:", limits)) if not is_kept)
        kept = [line for line in lines if not line.startswith(left_out)]
        (new / "manifest.yaml").write_text("\n".join(kept) + "\n")
        (new / "labels.txt").write_bytes((old / "labels.txt").read_bytes())
        (new / "model.tflite").write_bytes(model)
        if golden:
            (new / "golden").mkdir()
            for file in (old / "golden").iterdir():
                (new / "golden" / file.name).write_bytes(file.read_bytes())
        return new

    def record(self) -> Record:
        """What the device remembers, from its disk."""
        record = load_record(self.folder / "models" / "face").record
        assert record is not None
        return record

    def results(self) -> list[State]:
        return [json.loads(payload) for payload in self._results.payloads()]

    def wait_for_results(self, version: str | None = None) -> None:
        """Three more than there were, of this version if one is given."""
        topic, before = f"{BRANCH}/results/door", len(self._results.payloads())

        def came(_: object) -> bool:
            news = [json.loads(payload) for payload in self._results.payloads(topic)[before:]]
            return sum(version in (None, result["model"]["version"]) for result in news) >= 3

        self._results.wait_for(came, 30.0, f"results of {version or 'any version'}")

    def wait_for_telemetry(self) -> None:
        """One more."""
        before = len(self._telemetry.payloads())
        self._telemetry.wait_for(lambda messages: len(messages) > before)

    def check_frames(self) -> None:
        """Each captured frame has a result, or is among those that the agent counts as dropped."""
        status = self.agent.status()["pipelines"]["door"]
        answered = status["frames_inferred"]
        self._results.wait_for(lambda messages: len(messages) >= answered)
        indices = [result["frame"]["index"] for result in self.results()[:answered]]
        assert indices == sorted(set(indices))
        assert indices[-1] + 1 - answered <= status["frames_dropped"]


@pytest.fixture
def bench(tmp_path: Path, broker: Broker) -> Iterator[Bench]:
    """Its agent is not started yet."""
    config = make_config(tmp_path, broker.port, make_bundle("face", tmp_path))
    config["pipelines"] = [make_pipeline("door", infer_timeout_s=1, results={"max_per_s": None})]
    bench = Bench(tmp_path, broker, config)
    yield bench
    bench.agent.kill()


def outcome(mutant: str) -> str:
    """How it ends on the runtime of this environment."""
    recipe = MUTANTS[mutant]
    return recipe.litert if runtime_in_use()[0] == "ai-edge-litert" else recipe.tflite_runtime


def spoil(mutant: str) -> bytes:
    return mutate(model_path("face").read_bytes(), MUTANTS[mutant])


@pytest.mark.parametrize("mutant", ["crash_load", "crash_invoke", "endless", "error_invoke", "blind", "hungry"])
def test_a_bad_model_is_rejected_while_the_old_one_answers(bench: Bench, mutant: str) -> None:
    """`hungry` would work on LiteRT, had it the memory that its manifest does not ask for."""
    on_litert = runtime_in_use()[0] == "ai-edge-litert"
    ends = "error at load" if mutant == "hungry" and on_litert else outcome(mutant)
    if ends == "works":
        pytest.skip(f"on this runtime: {ends}")
    bench.agent.start()
    bench.wait_for_results()
    bundle = bench.make_version(spoil(mutant), limits=mutant != "crash_load")
    state = bench.operator.wait_until_ended(bench.operator.push(bundle, **HASTE))
    code = state["candidate"]["reason_code"]
    assert (state["candidate"]["state"], code) == (
        "rejected",
        next(code for start, code in FITTING.items() if ends.startswith(start)),
    ), state
    assert bench.record().quarantine == {state["candidate"]["sha256"]: code}
    assert (state["active"]["version"], state["history"][-1]["reason_code"]) == (OLD, code)
    bench.wait_for_results(OLD)
    bench.wait_for_telemetry()
    bench.check_frames()
    assert {result["model"]["version"] for result in bench.results()} == {OLD}
    assert bench.agent.status()["pid"] == bench.agent.pid
    assert bench.agent.status()["pipelines"]["door"]["worker_restarts"] == 0
    assert bench.agent.events("model.lost") == []


def test_quarantined_bytes_come_back_only_when_the_operator_insists(bench: Bench) -> None:
    bench.agent.start()
    bundle = bench.make_version(spoil("error_invoke"))
    first = bench.operator.push(bundle, **HASTE)
    assert bench.operator.wait_until_ended(first)["candidate"]["reason_code"] in TO_BLAME
    bench.operator.push(bundle, **HASTE)
    state = bench.operator.wait_for(lambda state: state["refused"])
    assert (state["refused"], state["floor"], state["candidate"]["release"]) == ("quarantined", first, first)
    again = bench.operator.push(bundle, retry=True, **HASTE)
    state = bench.operator.wait_until_ended(again)
    assert (state["candidate"]["state"], state["refused"], state["floor"]) == ("rejected", None, again)
    assert state["candidate"]["sha256"] in bench.record().quarantine
    bench.wait_for_results(OLD)


def film(scene: Path, level: int) -> None:
    """What the camera sees from now on: one grey level."""
    cv2.imwrite(str(scene.with_name("next.png")), np.full((120, 160, 3), level, np.uint8))
    os.replace(scene.with_name("next.png"), scene)


def fail_when_bright(model: bytes) -> bytes:
    """The endless model whose loop fails: "Input tensor 2 lacks data", on either runtime. Found as those in MUTANTS."""
    return model[:752] + b"\0" + model[753:]


def crash_worker(agent: Agent) -> None:
    """What a model that crashes does to its process; only one is there when no trial is under way."""
    (server,) = [pid for pid in _children(agent.pid) if _children(pid)]
    (worker,) = _children(server)
    os.kill(worker, signal.SIGSEGV)


def _children(pid: int) -> list[int]:
    return [
        int(word)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for word in (task / "children").read_text(encoding="ascii").split()
    ]


@pytest.mark.parametrize(("turn", "code"), [("hangs", "crashed"), ("crashes", "crashed"), ("fails", "health")])
def test_a_model_that_turns_bad_after_it_went_live_is_taken_back(bench: Bench, turn: str, code: str) -> None:
    """It passes its trial in the dark; then the light is switched on, or its process crashes."""
    scene = bench.folder / "scene.png"
    film(scene, 0)
    bench.config["pipelines"][0]["source"] = {"type": "file", "path": str(scene), "loop": True, "fps": 30}
    bench.agent = Agent(bench.folder, bench.config)
    bench.agent.start()
    model = spoil("endless_when_bright")
    number = bench.operator.push(
        bench.make_version(fail_when_bright(model) if turn == "fails" else model, golden=False),
        **HASTE | {"activation": {"health_window_s": 600}},
    )
    bench.operator.wait_for(lambda state: state["candidate"] and state["candidate"]["state"] == "active")
    bench.wait_for_results(BAD)
    if turn == "crashes":
        crash_worker(bench.agent)
    else:
        film(scene, 255)
    state = bench.operator.wait_until_ended(number)
    candidate = state["candidate"]
    assert (candidate["state"], candidate["reason_code"]) == ("rolled_back", code), state
    bench.wait_for_results(OLD)
    state = bench.operator.states()[-1]
    assert (state["active"]["version"], state["active"]["confirmed"]) == (OLD, True)
    assert bench.record().quarantine == {candidate["sha256"]: code}
    assert (bench.folder / "models" / "face" / "current").read_text().strip() == OLD
    bench.check_frames()
    bench.wait_for_telemetry()
    assert bench.agent.status()["pid"] == bench.agent.pid


def test_a_model_that_takes_what_the_source_does_not_give_is_taken_back(tmp_path: Path, broker: Broker) -> None:
    """No frame can be cut for it, in shadow neither: that none came must not pass for a source that is away."""
    channels = ["accel_x_g", "accel_y_g", "accel_z_g"]
    source = {"type": "csv", "path": str(ROOT / "agent" / "demo" / "swing.csv"), "channels": channels, "rate_hz": 50}
    config = make_config(tmp_path, broker.port, make_bundle("swing", tmp_path))
    config["pipelines"] = [make_pipeline("door", source={**source, "loop": True}, model="swing")]
    bench = Bench(tmp_path, broker, config)
    bundle = tmp_path / "operator" / BAD
    shutil.copytree(tmp_path / "models" / "swing" / OLD, bundle)
    manifest = (bundle / "manifest.yaml").read_text().replace(OLD, BAD).replace('"accel_z_g"', '"pressure_bar"')
    (bundle / "manifest.yaml").write_text(manifest)
    with bench.agent as agent:
        bench.wait_for_results(OLD)
        number = bench.operator.push(bundle, "swing", **HASTE)
        candidate = bench.operator.wait_until_ended(number, model="swing")["candidate"]
        assert (candidate["state"], candidate["reason_code"]) == ("rolled_back", "health")
        bench.wait_for_results(OLD)
        why = "the source has no pressure_bar: " + ", ".join(channels)
        assert candidate["reason"].endswith(why)
        assert agent.events("model.lost")[0]["reason"].endswith(why)
        assert agent.running


def damage(model: bytes, rng: random.Random) -> tuple[str, bytes]:
    """How, and what came of it; half of the places are in the small part that says what is to be computed."""

    def place(size: int = 1) -> int:
        return rng.randrange(rng.choice([0, IN_STRUCTURE]), len(model) - size + 1)

    data, how = bytearray(model), rng.choice(["flipped", "zeroed", "swapped", "cut off"])
    if how == "flipped":
        for _ in range(rng.randint(1, 16)):
            data[place()] ^= 1 << rng.randrange(8)
    elif how == "cut off":
        del data[place() :]
    else:
        size = 4 * rng.randint(1, 64)
        first, second = place(size), place(size)
        data[first : first + size] = bytes(size) if how == "zeroed" else model[second : second + size]
        if how == "swapped":
            data[second : second + size] = model[first : first + size]
    return (how, bytes(data)) if data != model else damage(model, rng)


@pytest.mark.parametrize("count", [5, pytest.param(500, marks=[pytest.mark.slow, pytest.mark.timeout(7200)], id="500")])
def test_one_damaged_model_after_the_other_does_not_bring_the_agent_down(bench: Bench, count: int) -> None:
    """A harmless one may stay."""
    bench.agent = HastyAgent(bench.folder, bench.config)
    bench.agent.start()
    model, rng, ends = model_path("face").read_bytes(), random.Random(3), Counter[tuple[str, ...]]()
    for turn in range(count):
        how, mutant = damage(model, rng)
        bundle = bench.make_version(mutant, f"1.0.{turn}")
        haste = {"acceptance": {"shadow_frames": 1}, "activation": {"health_window_s": 0, "min_frames": 0}}
        candidate = bench.operator.wait_until_ended(bench.operator.push(bundle, **haste), timeout_s=120)["candidate"]
        ends[how, candidate["state"], candidate["reason_code"] or ""] += 1
        if candidate["state"] != "active":
            assert candidate["reason_code"] in TO_BLAME, candidate
            assert "manifest.yaml" not in candidate["reason"]  # it is the model that is tried
            assert bench.record().quarantine[candidate["sha256"]] == candidate["reason_code"]
        bench.wait_for_results()
        assert bench.agent.status()["pid"] == bench.agent.pid
        bench.operator._ear.messages.clear()  # read anew at each wait
    for end, times in sorted(ends.items()):
        print(f"{times:4} {' '.join(end)}")
