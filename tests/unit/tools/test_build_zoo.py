"""tools/build_zoo.py and tools/zoo_models.py without TensorFlow: weights, unfolded float16, what is built again."""

import io
import json
import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.sim.bundles import model_path
from tools import build_zoo, zoo_models

WEIGHTS = zoo_models.ZOO / "efficientnet-lite0.pth"


class _Evil:
    def __reduce__(self):
        return eval, ("1 + 1",)


def test_a_pickle_that_wants_to_run_something_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.eval is not allowed"):
        zoo_models._StateDict(io.BytesIO(pickle.dumps(_Evil()))).load()


def test_weights_are_read_without_torch() -> None:
    if not WEIGHTS.is_file():
        pytest.skip("python3 tools/fetch_models.py zoo")
    weights = zoo_models.load_state_dict(WEIGHTS)
    assert weights["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert weights["_fc.weight"].shape == (1000, 1280)
    assert weights["_bn0.num_batches_tracked"].shape == ()
    assert all(np.isfinite(array).all() for array in weights.values())
    assert 0.01 < float(weights["_fc.weight"].std()) < 0.2


@pytest.mark.runtime
def test_unfolding_float16_changes_no_answer() -> None:
    if find_spec("ai_edge_litert") is None:
        pytest.skip("the schema comes with ai-edge-litert")
    folded = model_path("ssd_oidv4").read_bytes()
    unfolded = zoo_models.unfold_float16(folded)
    assert len(unfolded) > 1.9 * len(folded)
    image = np.random.default_rng(1).uniform(-1, 1, (1, 300, 300, 3)).astype(np.float32)
    for before, after in zip(zoo_models.answer(folded, image), zoo_models.answer(unfolded, image), strict=True):
        np.testing.assert_array_equal(before, after)


def test_crops_are_the_same_in_every_run_and_square_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    picture = np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)
    monkeypatch.setattr(zoo_models, "photos", lambda: {"one.png": picture})
    first, second = list(zoo_models.crops(square=True)), list(zoo_models.crops(square=True))
    assert len(first) == 1 + zoo_models.CROPS
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert {crop.shape[0] - crop.shape[1] for crop in first} == {0}
    assert next(zoo_models.crops(square=False)).shape == picture.shape


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo without animals, where nothing can be run."""
    monkeypatch.setattr(build_zoo, "ROOT", tmp_path)
    monkeypatch.setattr(build_zoo, "VENV", tmp_path / ".venv-zoo")
    monkeypatch.setattr(build_zoo, "REPORT", tmp_path / ".cache" / "zoo" / "report.json")
    (tmp_path / ".cache" / "zoo").mkdir(parents=True)
    (tmp_path / ".cache" / "models").mkdir()
    return tmp_path


def note_commands(monkeypatch: pytest.MonkeyPatch, zoo: Path) -> list[list[str]]:
    """Note what would be run; the builder writes its report."""
    commands: list[list[str]] = []

    def run(command: list[str], mend: str) -> None:
        commands.append(command)
        if str(build_zoo.BUILDER) in command:
            names = command[command.index(str(build_zoo.BUILDER)) + 1 :]
            build_zoo.REPORT.write_text(json.dumps({name: {"bytes": 1} for name in names}))
            for name in names:
                (zoo / ".cache" / "models" / f"{name}.tflite").write_bytes(b"m")
        if command[1:3] == ["-m", "venv"]:
            Path(command[3]).mkdir()

    monkeypatch.setattr(build_zoo, "_run", run)
    return commands


def test_the_environment_is_made_once_and_again_for_other_requirements(
    zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = note_commands(monkeypatch, zoo)
    assert build_zoo.main(["--only-venv"]) == 0
    assert build_zoo.main(["--only-venv"]) == 0
    assert len(commands) == 2
    assert commands[1][-len(build_zoo.REQUIREMENTS) :] == list(build_zoo.REQUIREMENTS)
    monkeypatch.setattr(build_zoo, "REQUIREMENTS", ("tensorflow-cpu==2.22.0",))
    assert build_zoo.main(["--only-venv"]) == 0
    assert len(commands) == 4


def test_only_missing_models_are_built(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = note_commands(monkeypatch, zoo)
    assert build_zoo.main(["efflite0_int8"]) == 0
    assert commands[-1][1:] == [str(build_zoo.BUILDER), "efflite0_int8"]
    count = len(commands)
    assert build_zoo.main(["efflite0_int8"]) == 0
    assert len(commands) == count
    assert build_zoo.main(["efflite0_int8", "--force"]) == 0
    assert len(commands) > count


def test_what_another_builder_made_is_built_again(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = note_commands(monkeypatch, zoo)
    assert build_zoo.main(["efflite0_int8"]) == 0
    report = json.loads(build_zoo.REPORT.read_text())
    report["efflite0_int8"]["builder"] = "0" * 64
    build_zoo.REPORT.write_text(json.dumps(report))
    count = len(commands)
    assert build_zoo.main(["efflite0_int8"]) == 0
    assert len(commands) > count


def test_a_step_that_fails_is_one_line_and_exit_code_1(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_zoo.sys, "executable", "/bin/false")
    assert build_zoo.main(["--only-venv"]) == 1
    told = capsys.readouterr().err
    assert told == "build_zoo: false -m failed with code 1: apt-get install python3-venv\n"


def test_a_python_that_tensorflow_does_not_have_is_said(
    zoo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build_zoo, "PYTHONS", ((3, 99), (3, 99)))
    assert build_zoo.main(["--only-venv"]) == 1
    assert "run it with one of those" in capsys.readouterr().err


def test_an_unknown_model_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_zoo.main(["resnet"])
    assert caught.value.code == 2
    assert "efflite0_int8" in capsys.readouterr().err
