"""The bad models of tests/sim/mutants.py end as they are said to, each in a process of its own."""

import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest

from tests.sim.bundles import ROOT, model_path, needs_litert, runtime_in_use
from tests.sim.mutants import MUTANTS, Mutant, mutate

DEADLINE_S = 60.0
HANG_S = 4.0

RUN = """
import resource, sys
import numpy as np
from agent.errors import ModelError
from agent.inference.interpreter import Interpreter

resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[2]) << 20,) * 2)
brightness = float(sys.argv[1])
try:
    interpreter = Interpreter(sys.stdin.buffer.read(), threads=1)
except ModelError:
    sys.exit("error at load")
print("loaded", flush=True)
view = interpreter.input_view()
view[...] = brightness + 0.2 * np.random.default_rng(1).standard_normal(view.shape)
del view
try:
    interpreter.invoke()
except ModelError:
    sys.exit("error at invoke")
np.save(sys.stdout.buffer, np.concatenate([view.ravel() for view in interpreter.output_views()]))
"""


def run(model: bytes, brightness: float = -0.2, limit_mib: int = 4096, deadline_s: float = DEADLINE_S):
    """Outcome, and the numbers of all outputs if there are any."""
    command = [sys.executable, "-c", RUN, str(brightness), str(limit_mib)]
    try:
        done = subprocess.run(command, input=model, capture_output=True, timeout=deadline_s, cwd=ROOT, check=False)
    except subprocess.TimeoutExpired as exc:
        return ("hang" if (exc.stdout or b"").startswith(b"loaded") else "hang at load"), None
    loaded = done.stdout.startswith(b"loaded\n")
    if done.returncode < 0:
        return f"crash at {'invoke' if loaded else 'load'}", None
    told = done.stderr.decode().strip().splitlines()
    if done.returncode:
        return told[-1] if told else f"exit code {done.returncode}", None
    return "works", np.load(BytesIO(done.stdout.removeprefix(b"loaded\n")))


def expected_outcome(mutant: Mutant) -> str:
    """As recorded for the runtime in use; skips on versions that nothing is known of."""
    outcomes = {("ai-edge-litert", "2.3.0"): mutant.litert, ("tflite-runtime", "2.14.0"): mutant.tflite_runtime}
    runtime = runtime_in_use()
    if runtime not in outcomes:
        pytest.skip(f"the mutants were not tried on {' '.join(runtime)}")
    return outcomes[runtime]


@pytest.fixture(scope="module")
def face() -> bytes:
    return model_path("face").read_bytes()


@pytest.fixture(scope="module")
def face_output(face: bytes):
    outcome, numbers = run(face)
    assert outcome == "works"
    return numbers


@pytest.mark.runtime
@pytest.mark.parametrize("name", [name for name in MUTANTS if name not in {"slow", "hungry"}])
def test_a_mutant_ends_as_recorded(name: str, face: bytes, face_output) -> None:
    mutant = MUTANTS[name]
    expected = expected_outcome(mutant)
    outcome, numbers = run(mutate(face, mutant), deadline_s=HANG_S if expected == "hang" else DEADLINE_S)
    if outcome == "works" and not mutant.endless_above:
        same = numbers.shape == face_output.shape and np.allclose(numbers, face_output, rtol=1e-3, atol=1e-3)
        outcome = "works" if same else "different"
    assert expected == outcome


@pytest.mark.runtime
@pytest.mark.parametrize("name", ["slow", "hungry"])
def test_mutants_that_need_much_memory_fail_at_load_where_it_is_limited(name: str, face: bytes) -> None:
    expected_outcome(MUTANTS[name])
    needs_litert("tflite-runtime plans these tensors otherwise")
    assert ("error at load", None) == run(mutate(face, MUTANTS[name]), limit_mib=900)


@pytest.mark.runtime
def test_the_model_that_hangs_on_bright_frames_hangs_on_those(face: bytes) -> None:
    assert run(mutate(face, MUTANTS["endless_when_bright"]), brightness=0.5, deadline_s=HANG_S) == ("hang", None)


def test_recipes_are_for_one_model_only() -> None:
    with pytest.raises(ValueError, match="face_detection_short_range"):
        mutate(b"another model", MUTANTS["blind"])
