"""Windows of samples into tensors, and models that take them step by step."""

import numpy as np
import pytest
import yaml

from agent.errors import ModelError
from agent.inference.bundle import load_bundle
from agent.inference.interpreter import Interpreter
from agent.inference.series import SeriesPreprocess, rows_and_columns, step_rows, window_of
from agent.inference.stepped import Stepped
from agent.manifest import (
    AudioInput,
    Constant,
    Feedback,
    ForecastDecoder,
    InputSpec,
    Manifest,
    SeriesInput,
    complete_decoder,
    load_manifest,
)
from agent.values import TensorInfo, Window
from tests.unit.inference.tiny_models import TensorSpec, make_model, make_recurrent, make_sum

pytestmark = pytest.mark.runtime

SPEC = SeriesInput(channels=("a", "b"), samples=3, mean=(1.0, 10.0), std=(2.0, 5.0))
DATA = np.array([[1, 10], [3, 15], [5, np.nan]], np.float32)


def test_each_channel_is_normalised_and_a_missing_value_is_the_mean():
    view = np.empty((1, 3, 2), np.float32)
    SeriesPreprocess(SPEC, TensorInfo("x", (1, 3, 2), "float32"))(DATA, view)
    assert view[0].tolist() == [[0, 0], [1, 1], [2, 0]]


@pytest.mark.parametrize("shape", [(1, 3, 2), (3, 2), (1, 3, 2, 1), (1, 3, 1, 2)])
def test_dimensions_of_one_do_not_matter(shape):
    view = np.empty(shape, np.float32)
    SeriesPreprocess(SPEC, TensorInfo("x", shape, "float32"))(DATA, view)
    assert view.reshape(-1).tolist() == [0, 0, 1, 1, 2, 0]


@pytest.mark.parametrize("shape", [(1, 2, 3), (1, 6), (1, 3, 3), ()])
def test_another_tensor_is_refused_with_both_sizes(shape):
    with pytest.raises(ModelError, match=r"input x: the model takes .*, the manifest says 3x2"):
        SeriesPreprocess(SPEC, TensorInfo("x", shape, "float32"))


@pytest.mark.parametrize(
    ("key", "values"), [("mean", (float("nan"), 0.0)), ("mean", (1e39,)), ("std", (1.0, 1e-300))], ids=str
)
def test_a_mean_or_std_that_is_no_number_is_an_error(key, values):
    """Else each value of the channel would count as missing, and the model would answer all the same."""
    spec = SeriesInput(channels=("a", "b"), samples=3, **{key: values})
    with pytest.raises(ModelError, match=rf"input\.{key}: expected numbers"):
        SeriesPreprocess(spec, TensorInfo("x", (1, 3, 2), "float32"))


def test_quantised_tensors_saturate():
    view = np.empty((1, 3, 2), np.int8)
    far = np.array([[1e9, -1e9], [1, 10], [3, 15]], np.float32)
    SeriesPreprocess(SPEC, TensorInfo("x", (1, 3, 2), "int8", 0.5, 3))(far, view)
    assert view[0].tolist() == [[127, -128], [3, 3], [5, 5]]


@pytest.mark.parametrize("data", [np.zeros((480, 640, 3), np.uint8), np.zeros((4, 2), np.float32)])
def test_what_is_no_such_window_is_refused(data):
    preprocess = SeriesPreprocess(SPEC, TensorInfo("x", (1, 3, 2), "float32"))
    with pytest.raises(ModelError, match=r"expected a window of 3x2 samples"):
        preprocess(data, np.empty((1, 3, 2), np.float32))


def test_windows_are_those_of_the_manifest():
    assert window_of(InputSpec(8, 8)) is None
    assert window_of(SPEC) == Window(
        channels=("a", "b"), samples=3, stride=3, rate_hz=None, max_gap_s=5.0, keeps_missing=False
    )
    sound = window_of(AudioInput(window_s=0.5, rate_hz=8000))
    assert sound
    assert (sound.samples, sound.stride, sound.rate_hz, sound.channels) == (4000, 1000, 8000.0, ())


def test_steps_are_found_where_the_tensor_is_smaller_than_the_window():
    assert step_rows(TensorInfo("x", (1, 3, 40), "int8"), 198, 40) == 3
    assert step_rows(TensorInfo("x", (1, 198, 40), "int8"), 198, 40) is None
    assert step_rows(TensorInfo("x", (1, 39), "int8"), 198, 40) is None
    assert rows_and_columns(SPEC) == (3, 2)


def stepped(average_steps, rows=6, step=2):
    """A model that copies its input of `step` x 1."""
    interpreter = Interpreter(make_model(TensorSpec("x", (1, step, 1), "int8", 0.5, 0)), threads=1)
    return Stepped(interpreter, rows, 1, step, average_steps)


class TestStepped:
    def test_the_highest_mean_counts(self):
        model = stepped(average_steps=2)
        assert model.inputs[0].shape == (1, 6, 1)
        model.input_view()[...] = np.array([0, 2, 8, 4, 4, 8], np.int8).reshape(1, 6, 1)
        model.invoke()
        assert model.output_views()[0].reshape(-1).tolist() == [3.0, 3.0]  # of 4 and 2, of 2 and 4

    def test_or_the_last_step(self):
        model = stepped(average_steps=None)
        model.input_view()[...] = np.arange(6, dtype=np.int8).reshape(1, 6, 1)
        model.invoke()
        assert model.output_views()[0].reshape(-1).tolist() == [2.0, 2.5]

    def test_a_window_is_looked_at_alike_whatever_came_before(self):
        model = stepped(average_steps=1)
        first, second = np.arange(6, dtype=np.int8), np.arange(6, 12, dtype=np.int8)
        answers = []
        for window in (first, second, first):
            model.input_view()[...] = window.reshape(1, 6, 1)
            model.invoke()
            answers.append(model.output_views()[0].tolist())
        assert answers[0] == answers[2] != answers[1]

    def test_floats_are_real_values_whatever_scale_training_has_left(self):
        interpreter = Interpreter(make_model(TensorSpec("x", (1, 2, 1), "float32", 0.5, 3)), threads=1)
        model = Stepped(interpreter, rows=4, columns=1, step_rows=2, average_steps=None)
        model.input_view()[...] = np.array([1, 2, 3, 4], np.float32).reshape(1, 4, 1)
        model.invoke()
        assert model.output_views()[0].reshape(-1).tolist() == [3.0, 4.0]

    def test_what_is_left_over_at_the_end_is_not_looked_at(self):
        model = stepped(average_steps=None, rows=5)
        model.input_view()[...] = np.arange(5, dtype=np.int8).reshape(1, 5, 1)
        model.invoke()
        assert model.output_views()[0].reshape(-1).tolist() == [1.0, 1.5]


class TestShapesAndInputs:
    def test_an_input_is_resized_before_its_memory_is_allocated(self):
        interpreter = Interpreter(make_sum([TensorSpec("x", (1, 1))]), threads=1, shape=(1, 7))
        assert (interpreter.inputs[0].shape, interpreter.outputs[0].shape) == ((1, 7), (1, 7))
        interpreter.input_view()[...] = np.arange(7)
        interpreter.invoke()
        assert interpreter.output_views()[0].tolist() == [[0, 2, 4, 6, 8, 10, 12]]

    @pytest.mark.parametrize("main", ["x", "y"])
    def test_the_input_that_is_not_named_gets_the_frames(self, main):
        other = "y" if main == "x" else "x"
        model = make_sum([TensorSpec(name, (1, 2)) for name in ("x", "y")])
        interpreter = Interpreter(model, threads=1, more_inputs={other: Constant((100.0, 200.0))})
        assert interpreter.inputs[0].name == main
        for value in (1.0, 2.0):
            interpreter.input_view()[...] = value
            interpreter.invoke()
            assert interpreter.output_views()[0].tolist() == [[100 + value, 200 + value]]

    def test_an_output_is_fed_back_until_it_is_forgotten(self):
        model = make_sum([TensorSpec(name, (1, 2)) for name in ("x", "state")])
        interpreter = Interpreter(model, threads=1, more_inputs={"state": Feedback("total")})
        model_of_windows = Stepped(interpreter, rows=3, columns=2, step_rows=1, average_steps=None)
        for _ in range(2):
            model_of_windows.input_view()[...] = np.array([[1, 10], [2, 20], [3, 30]], np.float32)
            model_of_windows.invoke()
            assert model_of_windows.output_views()[0].tolist() == [[6, 60]]

    @pytest.mark.parametrize(
        ("of_state", "of_total"),
        [((0.5, -128), (0.5, -128)), ((0.5, 0), (1.0, 0)), ((1.0, 3), (0.5, -100))],
        ids=["zero-is-not-0", "another-scale", "both"],
    )
    def test_what_is_fed_back_counts_by_its_value_and_begins_at_zero(self, of_state, of_total):
        """Quantised: the number 0 may stand for another value, and the output's scale need not be the input's."""
        given = [TensorSpec("x", (1, 2), "int8", 1.0, 0), TensorSpec("state", (1, 2), "int8", *of_state)]
        model = make_sum(given, TensorSpec("total", (1, 2), "int8", *of_total))
        interpreter = Interpreter(model, threads=1, more_inputs={"state": Feedback("total")})
        model_of_windows = Stepped(interpreter, rows=3, columns=2, step_rows=1, average_steps=None)
        for _ in range(2):
            model_of_windows.input_view()[...] = np.array([[1, 10], [2, 20], [3, 30]], np.int8)
            model_of_windows.invoke()
            assert model_of_windows.output_views()[0].tolist() == [[6, 60]]

    def test_a_shape_that_the_model_can_not_take_is_an_error(self):
        with pytest.raises(ModelError, match="the model"):
            Interpreter(make_model(TensorSpec("x", (1, 2))), threads=1, shape=(1,) * 7)

    @pytest.mark.parametrize(
        ("more", "expected"),
        [
            ({"y": Constant(1.0)}, r"more_inputs.y: expected one of x"),
            ({"x": Constant(1.0)}, r"expected all inputs but one, of x"),
            ({"x": Feedback("nothing")}, r"expected an output of the same shape, got 'nothing'; the model has copy"),
            ({"x": Constant((1.0, 2.0, 3.0))}, r"expected 1 value or 2, got 3"),
        ],
    )
    def test_more_inputs_that_do_not_fit_are_named(self, more, expected):
        with pytest.raises(ModelError, match=expected):
            Interpreter(make_model(TensorSpec("x", (1, 2))), threads=1, more_inputs=more)


def test_a_model_that_takes_whole_windows_begins_anew_in_each(tmp_path):
    """Recurrent layers keep their state from inference to inference."""
    (tmp_path / "model.tflite").write_bytes(make_recurrent(samples=3))
    given = {"type": "series", "channels": ["a"], "samples": 3}
    manifest = {"name": "echo", "version": "1", "task": "regress", "labels": None, "input": given}
    (tmp_path / "manifest.yaml").write_text(yaml.safe_dump(manifest | {"decoder": {"type": "regress"}}))
    bundle = load_bundle(tmp_path)
    for _ in range(3):
        assert bundle.run(np.ones((3, 1), np.float32), 0.0).found.values == [1.0, 1.5, 1.75]


def forecast(**decoder):
    """The decoder of a forecast of a and b, completed."""
    return complete_decoder(
        Manifest(name="next", version="1", task="regress", input=SPEC, decoder=ForecastDecoder(**decoder), labels=None)
    )


def test_a_forecast_has_one_mean_and_std_for_each_channel():
    assert (forecast().mean, forecast().std) == ((1.0, 10.0), (2.0, 5.0))
    assert forecast(channels=("b",)).mean == (10.0,)
    one_for_all = forecast(mean=(3.0,), std=(4.0,))
    assert (one_for_all.mean, one_for_all.std) == ((3.0, 3.0), (4.0, 4.0))


@pytest.mark.parametrize("key", ["mean", "std"])
def test_a_forecast_with_numbers_for_other_channels_than_it_has_is_one_line(key):
    with pytest.raises(ModelError, match=rf"decoder\.{key}: expected 1 value or 2, got 3"):
        forecast(**{key: (1.0, 2.0, 3.0)})


def test_a_window_of_sound_without_a_sample_is_one_line(tmp_path):
    path = tmp_path / "manifest.yaml"
    sound = {"type": "audio", "window_s": 0.00001}
    manifest = {"name": "word", "version": "1", "task": "classify", "input": sound, "decoder": {"type": "classify"}}
    path.write_text(yaml.safe_dump(manifest))
    with pytest.raises(ModelError, match=r"input: window_s: expected at least a sample \(6.25e-05 s\)"):
        load_manifest(path)
