"""The one door to the TFLite runtime: what it tells, what it gives out, and how it refuses."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from agent.config import Delegate
from agent.errors import ModelError
from agent.inference.interpreter import Interpreter, check_numpy
from agent.values import TensorInfo
from tests.unit.inference.tiny_models import TensorSpec, make_model

pytestmark = pytest.mark.runtime

FLOAT = TensorSpec("image", (1, 4, 5, 3))
MODEL = make_model(FLOAT)


def refusal(model: bytes, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        Interpreter(model, threads=1, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


class TestTensors:
    @pytest.mark.parametrize(
        ("dtype", "scale", "zero_point"),
        [("float32", 0.0, 0), ("uint8", 0.5, 3), ("int8", 0.0078125, -128), ("int32", 0.0, 0), ("int64", 0.0, 0)],
    )
    def test_what_the_model_says_of_its_tensors(self, dtype: str, scale: float, zero_point: int) -> None:
        interpreter = Interpreter(make_model(TensorSpec("image", (1, 2, 3, 1), dtype, scale, zero_point)), threads=1)
        assert interpreter.inputs == (TensorInfo("image", (1, 2, 3, 1), dtype, scale, zero_point),)
        assert interpreter.outputs == (TensorInfo("copy", (1, 2, 3, 1), dtype, scale, zero_point),)

    @pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
    def test_what_is_written_into_the_input_is_what_the_model_sees(self, dtype: str) -> None:
        interpreter = Interpreter(make_model(TensorSpec("image", (1, 2, 3), dtype)), threads=1)
        values = np.arange(6, dtype=dtype).reshape(1, 2, 3)
        interpreter.input_view()[...] = values
        interpreter.invoke()
        np.testing.assert_array_equal(interpreter.output_views()[0], values)

    def test_outputs_come_in_the_models_order(self) -> None:
        outputs = [TensorSpec(f"out{n}", (1, n), data=np.full((1, n), n, np.float32)) for n in (3, 1, 2)]
        interpreter = Interpreter(make_model(FLOAT, outputs), threads=1)
        interpreter.invoke()
        assert [view.tolist() for view in interpreter.output_views()] == [[[3, 3, 3]], [[1]], [[2, 2]]]
        assert [info.name for info in interpreter.outputs] == ["out3", "out1", "out2"]

    def test_the_input_survives_invoke(self) -> None:
        interpreter = Interpreter(MODEL, threads=1)
        interpreter.input_view()[...] = 5.0
        for _ in range(3):
            interpreter.invoke()
        assert (interpreter.input_view() == 5.0).all()

    def test_views_are_the_same_memory_each_time(self) -> None:
        interpreter = Interpreter(MODEL, threads=1)
        assert interpreter.input_view().ctypes.data == interpreter.input_view().ctypes.data

    @pytest.mark.parametrize("which", ["input", "output", "part of an input"])
    def test_a_held_view_fails_the_next_invoke_and_letting_go_mends_it(self, which: str) -> None:
        interpreter = Interpreter(MODEL, threads=1)
        held = interpreter.output_views()[0] if which == "output" else interpreter.input_view()
        if which == "part of an input":
            held = held[0, 1:]
        with pytest.raises(ModelError, match="the model failed: There is at least 1 reference"):
            interpreter.invoke()
        del held
        interpreter.invoke()

    def test_it_runs_on_the_cpu_by_default(self) -> None:
        runtime = Interpreter(MODEL, threads=3).runtime
        assert runtime.package in ("ai-edge-litert", "tflite-runtime")
        assert runtime.version[0].isdigit()
        assert (runtime.threads, runtime.delegate) == (3, None)


class TestBadModels:
    @pytest.mark.parametrize("size", [*range(8, len(MODEL) - 16, 7)])
    def test_a_truncated_model_is_refused_before_native_code_sees_it(self, size: int) -> None:
        assert "truncated or damaged" in refusal(MODEL[:size])

    def test_what_is_no_model_is_refused(self) -> None:
        assert refusal(b"").startswith("not a TFLite model: this is an empty file")
        assert refusal(b"\0" * 100).startswith("not a TFLite model: ")

    def test_a_missing_operator_is_named(self) -> None:
        text = refusal(make_model(FLOAT, custom_op="Frobnicate"))
        assert "needs the operator Frobnicate, which " in text

    def test_a_model_for_the_edge_tpu_says_what_it_needs(self) -> None:
        assert "compiled for the Edge TPU" in refusal(make_model(FLOAT, custom_op="edgetpu-custom-op"))

    def test_a_model_without_outputs_is_refused(self) -> None:
        assert refusal(make_model(FLOAT, [])) == "the model has 1 inputs and 0 outputs; at least one of each is needed"


class TestDelegates:
    @pytest.mark.parametrize(
        ("library", "message"),
        [
            ("libnothere-edge.so.1", r"libnothere-edge.so.1 can't be loaded \(.*No such file.*\); install it"),
            ("/tmp", r"accelerator /tmp can't be loaded"),
            ("libc.so.6", r"libc.so.6 is not a TFLite delegate"),
        ],
    )
    def test_one_that_can_not_be_used_is_an_error_that_names_it(self, library: str, message: str) -> None:
        with pytest.raises(ModelError, match=message):
            Interpreter(MODEL, threads=1, delegate=Delegate(library))

    @pytest.mark.parametrize("library", ["libnothere-edge.so.1", "libc.so.6"])
    def test_with_fallback_the_cpu_serves_and_a_warning_says_why(self, library: str) -> None:
        interpreter = Interpreter(MODEL, threads=1, delegate=Delegate(library, fallback="cpu"))
        assert interpreter.runtime.delegate is None
        assert interpreter.warning is not None
        assert interpreter.warning.startswith(f"runs on the CPU: accelerator {library} ")
        interpreter.invoke()

    def test_a_model_that_only_the_accelerator_can_run_fails_with_both_reasons(self) -> None:
        delegate = Delegate("libnothere-edge.so.1", fallback="cpu")
        text = refusal(make_model(FLOAT, custom_op="edgetpu-custom-op"), delegate=delegate)
        assert "libnothere-edge.so.1 can't be loaded" in text
        assert "and on the CPU: the model is compiled for the Edge TPU" in text

    def test_without_one_there_is_nothing_to_warn_of(self) -> None:
        assert Interpreter(MODEL, threads=1).warning is None


class TestRuntimes:
    def test_tflite_runtime_with_numpy_2_is_refused_with_the_mend(self) -> None:
        with pytest.raises(ModelError, match=r"numpy 2\.4\.6; mend: pip install 'edge-agent\[tflite-runtime\]'"):
            check_numpy("tflite-runtime", "2.4.6")

    @pytest.mark.parametrize(("package", "numpy"), [("tflite-runtime", "1.26.4"), ("ai-edge-litert", "2.4.6")])
    def test_pairs_that_get_along_are_let_through(self, package: str, numpy: str) -> None:
        check_numpy(package, numpy)

    @pytest.mark.parametrize(
        ("hidden", "expected"),
        [
            ((), "numpy 2"),
            (("tflite_runtime",), "no TFLite runtime is installed; mend: pip install ai-edge-litert"),
        ],
    )
    def test_without_a_usable_runtime_loading_says_what_to_install(
        self, tmp_path: Path, hidden: tuple[str, ...], expected: str
    ) -> None:
        """In a process of its own, where ai-edge-litert is hidden and tflite-runtime is there, but meets numpy 2."""
        (tmp_path / "tflite_runtime").mkdir()
        (tmp_path / "tflite_runtime" / "interpreter.py").touch()
        hide = ["ai_edge_litert", *hidden]
        code = (
            "import sys\n"
            f"for name in {hide}: sys.modules[name] = None\n"
            "import numpy\n"
            "numpy.__version__ = '2.4.6'\n"
            "from agent.inference.interpreter import Interpreter\n"
            "try: Interpreter(b'', threads=1)\n"
            "except Exception as exc: print(type(exc).__name__, exc)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": f"{tmp_path}:{Path.cwd()}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert done.stdout.startswith("ModelError ")
        assert expected in done.stdout

    def test_nothing_is_printed_on_stdout(self, capfd: pytest.CaptureFixture[str]) -> None:
        interpreter = Interpreter(MODEL, threads=1, delegate=Delegate("libc.so.6", fallback="cpu"))
        interpreter.invoke()
        refusal(make_model(FLOAT, custom_op="Frobnicate"))
        assert capfd.readouterr().out == ""
