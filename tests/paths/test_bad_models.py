"""A model that crashes, hangs or fails costs its own frames: the daemon, its telemetry and other pipelines go on."""

from pathlib import Path

import pytest

from agent.inference.interpreter import Interpreter
from tests.sim.agent import Agent, make_config, make_pipeline
from tests.sim.broker import Broker
from tests.sim.bundles import make_bundle, model_path
from tests.sim.mutants import MUTANTS, mutate

pytestmark = pytest.mark.runtime

BRANCH = "edge/devices/cam-1"


def with_bad_model(tmp_path: Path, broker: Broker, mutant: str, **pipeline: object) -> Agent:
    """A daemon with a good pipeline, and one whose model is the mutant."""
    models = make_bundle("face", tmp_path)
    home = models / "bad" / "1"
    home.mkdir(parents=True)
    (models / "bad" / "current").write_text("1\n")
    face = models / "face" / "2026.11.1"
    manifest = (face / "manifest.yaml").read_text().replace("name: face", "name: bad")
    manifest = manifest.split("golden:")[0].split("limits:")[0]  # with less memory some fail before they crash
    (home / "manifest.yaml").write_text(manifest)
    (home / "labels.txt").write_text((face / "labels.txt").read_text())
    (home / "model.tflite").write_bytes(mutate(model_path("face").read_bytes(), MUTANTS[mutant]))
    config = make_config(tmp_path, broker.port, models)
    config["pipelines"].append(make_pipeline("gate", model="bad", infer_timeout_s=1, **pipeline))
    return Agent(tmp_path, config)


def outcome(mutant: str) -> str:
    """How it ends on the runtime of this environment."""
    recipe = MUTANTS[mutant]
    runtime = Interpreter(model_path("face").read_bytes(), threads=1).runtime
    return recipe.litert if runtime.package == "ai-edge-litert" else recipe.tflite_runtime


@pytest.mark.parametrize("mutant", ["crash_invoke", "crash_load", "old_crash_invoke", "endless", "error_invoke"])
def test_only_its_own_pipeline_suffers(tmp_path: Path, broker: Broker, mutant: str) -> None:
    """Degraded with the reason, the same process, telemetry and the other pipeline as ever."""
    said = {"crash": "crashed with SIG", "hang": "gave no answer within 1 s", "error": "model.gate: "}
    kind = outcome(mutant).split()[0]
    if kind == "works" or outcome(mutant) == "error at load":
        pytest.skip(f"on this runtime: {outcome(mutant)}")
    listener = broker.listen(f"{BRANCH}/telemetry")
    with with_bad_model(tmp_path, broker, mutant) as agent:
        status = agent.wait_for_status(lambda s: any("model.gate" in reason for reason in s["reasons"]))
        assert said[kind] in status["reasons"][0]
        before = status["pipelines"]["door"]["frames_inferred"]
        later = agent.wait_for_status(
            lambda s: (
                s["pipelines"]["door"]["frames_inferred"] > before + 20 and s["pipelines"]["gate"]["frames_dropped"] > 2
            )
        )
        assert (agent.pid, "degraded") == (later["pid"], later["state"])
        if kind != "error":
            agent.wait_for_status(lambda s: s["pipelines"]["gate"]["worker_restarts"] >= 1)
        assert len(agent.events("model.lost")) == 1
        told = len(listener.payloads())
        listener.wait_for(lambda m: len(m) > told + 1)
        assert agent.end(timeout_s=10) == 0


def test_one_that_can_not_be_loaded_ends_the_start_with_exit_code_3(tmp_path: Path, broker: Broker) -> None:
    agent = with_bad_model(tmp_path, broker, "half")
    agent.start()
    assert agent.wait() == 3
    text = agent.log_file.read_text()
    assert "bad/1/model.tflite" in text
    assert "Traceback" not in text
