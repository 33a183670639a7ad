"""Frames into tensors: values are those of a slow float64 reference, and the Transform says where they came from."""

import tracemalloc
from typing import Any

import cv2
import numpy as np
import pytest

from agent.errors import ModelError
from agent.inference.interpreter import Interpreter
from agent.inference.preprocess import Preprocess
from agent.manifest import CropStep, FlipStep, InputSpec, RotateStep
from agent.values import TensorInfo, Transform
from tests.sim.bundles import picture_path
from tests.unit.inference import naive
from tests.unit.inference.tiny_models import TensorSpec, make_model

MINUS_ONE_TO_ONE = {"mean": (127.5,), "std": (127.5,)}
IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


def info(spec: InputSpec, dtype: str = "float32", scale: float = 0.0, zero_point: int = 0) -> TensorInfo:
    channels = 1 if spec.color == "gray" else 3
    return TensorInfo("image", (1, spec.height_px, spec.width_px, channels), dtype, scale, zero_point)


def run(spec: InputSpec, frame: np.ndarray, *args: Any) -> tuple[np.ndarray, Transform]:
    """A fresh Preprocess on one frame; the tensor starts as rubbish."""
    tensor = info(spec, *args)
    view = np.full(tensor.shape, 77, tensor.dtype)
    return view, Preprocess(spec, tensor)(frame, view)


def back(transform: Transform, x: float, y: float) -> tuple[float, float]:
    at = transform.matrix @ (x, y, 1.0)
    return float(at[0]), float(at[1])


def coordinates(width: int, height: int) -> np.ndarray:
    """A frame whose pixels hold their own x and y, and 255."""
    ys, xs = np.mgrid[:height, :width].astype(np.uint8)
    return np.ascontiguousarray(np.stack([xs, ys, np.full_like(xs, 255)], axis=-1))


def where_sampled(view: np.ndarray, transform: Transform) -> tuple[np.ndarray, np.ndarray]:
    """For the input pixels that show such a frame: where it was sampled, and where the Transform says. N x 2."""
    ys, xs = np.nonzero(view[0, :, :, 2] == 255)
    assert len(xs)
    middles = np.stack([xs + 0.5, ys + 0.5, np.ones(len(xs))])
    return view[0, ys, xs, :2] + 0.5, (transform.matrix @ middles).T


@pytest.fixture(scope="module")
def astronaut() -> np.ndarray:
    picture = cv2.imread(str(picture_path("astronaut.png")))
    assert picture is not None
    return picture


@pytest.fixture(scope="module")
def every_level() -> np.ndarray:
    """24 x 32 with each of the 256 levels three times in each channel, shuffled; as large as the input: no resize."""
    levels = np.tile(np.arange(256, dtype=np.uint8), 3 * 3)
    np.random.default_rng(1).shuffle(levels)
    return levels.reshape(24, 32, 3)


class TestValues:
    """Frames of the input's own size: nothing is interpolated, so values are exact."""

    @pytest.mark.parametrize("color", ["rgb", "bgr"])
    @pytest.mark.parametrize("values", [MINUS_ONE_TO_ONE, {"std": (255.0,)}, {}, IMAGENET])
    def test_float_values_are_exact_to_2e_6(self, every_level: np.ndarray, color: Any, values: Any) -> None:
        spec = InputSpec(32, 24, color=color, **values)
        view, _ = run(spec, every_level)
        expected = naive.normalize(naive.color(every_level.astype(float), color), spec.mean, spec.std)
        np.testing.assert_allclose(view[0], expected, rtol=0, atol=2e-6 * np.abs(expected).max())

    @pytest.mark.parametrize(
        ("dtype", "scale", "zero_point", "values"),
        [
            ("uint8", 1 / 255, 0, {"std": (255.0,)}),  # pixels as they are
            ("int8", 1 / 128, 0, {"mean": (128.0,), "std": (128.0,)}),  # pixels minus 128
            ("int8", 1 / 255, -128, {"std": (255.0,)}),  # the same, written otherwise
            ("int8", 0.0078, -1, MINUS_ONE_TO_ONE),
            ("uint8", 0.0187, 114, IMAGENET),
            ("uint8", 1 / 300, 3, MINUS_ONE_TO_ONE),  # does not hold all values: saturates at both ends
            ("int8", 1 / 300, 3, MINUS_ONE_TO_ONE),
        ],
    )
    @pytest.mark.parametrize("color", ["rgb", "bgr"])
    def test_quantised_values_are_bit_exact(
        self, every_level: np.ndarray, color: Any, dtype: str, scale: float, zero_point: int, values: Any
    ) -> None:
        spec = InputSpec(32, 24, color=color, **values)
        view, _ = run(spec, every_level, dtype, scale, zero_point)
        real = naive.normalize(naive.color(every_level.astype(float), color), spec.mean, spec.std)
        np.testing.assert_array_equal(view[0], naive.quantize(real, dtype, scale, zero_point))

    def test_values_that_do_not_fit_saturate_instead_of_wrapping_around(self, every_level: np.ndarray) -> None:
        view, _ = run(InputSpec(32, 24), every_level, "int8", 1.0, 0)
        assert (view.min(), view.max()) == (0, 127)

    def test_a_tensor_without_scale_takes_the_values_themselves(self, every_level: np.ndarray) -> None:
        view, _ = run(InputSpec(32, 24, color="bgr"), every_level, "uint8")
        np.testing.assert_array_equal(view[0], every_level)

    @pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
    def test_a_gray_frame_fills_all_channels(self, every_level: np.ndarray, dtype: str) -> None:
        gray = every_level[..., 0]
        view, _ = run(InputSpec(32, 24), gray, dtype)
        expected = np.minimum(gray, 127) if dtype == "int8" else gray
        for channel in range(3):
            np.testing.assert_array_equal(view[0, ..., channel], expected)

    def test_a_colour_frame_becomes_gray_by_luma(self, every_level: np.ndarray) -> None:
        view, _ = run(InputSpec(32, 24, color="gray"), every_level, "uint8")
        expected = naive.color(every_level.astype(float), "gray")
        assert np.abs(view[0, ..., 0] - expected).max() <= 0.51

    @pytest.mark.parametrize("shape", [(1, 24, 32), (1, 24, 32, 1)])
    def test_a_gray_tensor_may_leave_its_channel_out(self, every_level: np.ndarray, shape: tuple[int, ...]) -> None:
        spec, view = InputSpec(32, 24, color="gray"), np.zeros(shape, np.float32)
        Preprocess(spec, TensorInfo("gray", shape, "float32"))(every_level[..., 0], view)
        np.testing.assert_array_equal(view.reshape(24, 32), every_level[..., 0])


class TestResize:
    @pytest.mark.parametrize("color", ["rgb", "gray"])
    @pytest.mark.parametrize(
        ("resize", "frame_wh", "part", "filled"),
        [
            ("letterbox", (512, 384), (0, 0, 512, 384), (0, 16, 128, 96)),
            ("letterbox", (180, 360), (0, 0, 180, 360), (32, 0, 64, 128)),
            ("letterbox", (40, 20), (0, 0, 40, 20), (0, 32, 128, 64)),  # enlarged
            ("crop", (512, 384), (64, 0, 384, 384), (0, 0, 128, 128)),
            ("stretch", (500, 200), (0, 0, 500, 200), (0, 0, 128, 128)),
        ],
    )
    def test_a_photo_is_within_one_level_of_the_float64_reference(
        self, astronaut: np.ndarray, color: Any, resize: Any, frame_wh: Any, part: Any, filled: Any
    ) -> None:
        frame = astronaut[: frame_wh[1], : frame_wh[0]]
        view, _ = run(
            InputSpec(128, 128, color=color, resize=resize, pad_value=9), np.ascontiguousarray(frame), "uint8"
        )
        (left, top, width, height), (x, y, fit_w, fit_h) = part, filled
        expected = np.full(view.shape[1:], 9.0).squeeze()
        kept = frame[top : top + height, left : left + width]
        expected[y : y + fit_h, x : x + fit_w] = naive.color(naive.bilinear(kept, fit_w, fit_h, "half_pixel"), color)
        error = np.abs(view[0].squeeze() - expected)
        assert error.max() <= 1.2
        assert error.mean() <= 0.35  # rounding once costs 0.25

    def test_a_frame_that_is_a_view_of_a_larger_one_works_too(self, astronaut: np.ndarray) -> None:
        part = astronaut[10:310, 20:420]
        spec = InputSpec(64, 64)
        np.testing.assert_array_equal(run(spec, part)[0], run(spec, np.ascontiguousarray(part))[0])

    def test_a_read_only_frame_works_too(self, astronaut: np.ndarray) -> None:
        frame = astronaut.copy()
        frame.setflags(write=False)
        np.testing.assert_array_equal(run(InputSpec(64, 64), frame)[0], run(InputSpec(64, 64), astronaut)[0])

    def test_half_pixel_sampling_is_cv2_resize(self, astronaut: np.ndarray) -> None:
        view, _ = run(InputSpec(96, 96, color="bgr"), astronaut, "uint8")
        np.testing.assert_array_equal(view[0], cv2.resize(astronaut, (96, 96)))

    @pytest.mark.parametrize(("frame_wh", "fit_wh"), [((512, 288), (128, 72)), ((200, 400), (64, 128))])
    def test_corner_sampling_is_cv2_warp_affine_as_mediapipe_uses_it(
        self, astronaut: np.ndarray, frame_wh: tuple[int, int], fit_wh: tuple[int, int]
    ) -> None:
        frame = np.ascontiguousarray(astronaut[: frame_wh[1], : frame_wh[0]])
        view, transform = run(InputSpec(128, 128, color="bgr", sampling="corner"), frame, "uint8")
        matrix = np.array([[fit_wh[0] / frame_wh[0], 0, 0], [0, fit_wh[1] / frame_wh[1], 0]])
        expected = cv2.warpAffine(frame, matrix, fit_wh, flags=cv2.INTER_LINEAR)
        x, y = (128 - fit_wh[0]) // 2, (128 - fit_wh[1]) // 2
        np.testing.assert_array_equal(view[0, y : y + fit_wh[1], x : x + fit_wh[0]], expected)
        assert back(transform, x, y) == (0.0, 0.0)
        assert back(transform, x + fit_wh[0], y + fit_wh[1]) == pytest.approx(frame_wh)

    def test_corner_sampling_is_near_the_float64_reference(self, astronaut: np.ndarray) -> None:
        view, _ = run(InputSpec(100, 100, color="bgr", sampling="corner"), astronaut, "uint8")
        assert np.abs(view[0] - naive.bilinear(astronaut, 100, 100, "corner")).mean() <= 1.0

    def test_corner_sampling_does_not_darken_the_edges_of_an_enlarged_frame(self) -> None:
        view, _ = run(InputSpec(64, 64, sampling="corner"), np.full((5, 7, 3), 200, np.uint8), "uint8")
        assert view[0, 9:55].min() == 200


class TestLetterbox:
    @pytest.mark.parametrize(("dtype", "expected"), [("float32", (114 - 127.5) / 127.5), ("int8", -14)])
    def test_the_border_is_pad_value_in_the_tensors_own_units(self, dtype: str, expected: float) -> None:
        spec = InputSpec(64, 64, pad_value=114, **MINUS_ONE_TO_ONE)
        view, _ = run(spec, np.zeros((10, 40, 3), np.uint8), dtype, 1 / 128 if dtype == "int8" else 0.0)
        np.testing.assert_allclose(view[0, :24], expected, rtol=1e-6)
        np.testing.assert_allclose(view[0, 40:], expected, rtol=1e-6)

    def test_the_border_differs_by_channel_where_mean_does(self) -> None:
        view, _ = run(InputSpec(64, 64, **IMAGENET), np.zeros((10, 40, 3), np.uint8))
        np.testing.assert_allclose(view[0, 0, 0], naive.normalize(np.zeros(3), **IMAGENET), rtol=1e-6)

    def test_another_frame_size_leaves_nothing_of_the_last_frame(self) -> None:
        spec = InputSpec(64, 64)
        preprocess, view = Preprocess(spec, info(spec)), np.zeros((1, 64, 64, 3), np.float32)
        preprocess(np.full((64, 64, 3), 255, np.uint8), view)
        for level, shape in enumerate(((16, 64, 3), (64, 16, 3), (64, 16), (64, 16, 3)), start=1):
            transform = preprocess(np.full(shape, level, np.uint8), view)
            assert (int((view == level).sum()), int((view == 0).sum())) == (16 * 64 * 3, 48 * 64 * 3)
            assert transform.frame_wh == (shape[1], shape[0])

    def test_the_border_is_written_once_for_a_frame_size(self) -> None:
        spec = InputSpec(64, 64)
        preprocess, view = Preprocess(spec, info(spec)), np.zeros((1, 64, 64, 3), np.float32)
        frame = np.zeros((16, 64, 3), np.uint8)
        preprocess(frame, view)
        view[0, 0, 0] = 5.0
        preprocess(frame, view)
        np.testing.assert_array_equal(view[0, 0, 0], [5.0, 5.0, 5.0])


STEPS = [
    (),
    (RotateStep(90),),
    (RotateStep(180),),
    (RotateStep(270),),
    (FlipStep("horizontal"),),
    (FlipStep("vertical"),),
    (CropStep((0.25, 0.5, 0.75, 1.0)),),
    (
        CropStep((0.1, 0.1, 0.7, 0.8)),
        RotateStep(90),
        FlipStep("horizontal"),
        RotateStep(270),
        CropStep((0.2, 0, 1, 0.9)),
    ),
]


class TestTransform:
    @pytest.mark.parametrize("steps", STEPS)
    @pytest.mark.parametrize("resize", ["letterbox", "crop", "stretch"])
    @pytest.mark.parametrize(("width", "height"), [(240, 150), (97, 211), (30, 41)])
    def test_it_says_where_each_input_pixel_was_taken(self, steps: Any, resize: Any, width: int, height: int) -> None:
        """Each pixel of the frame holds its own coordinates, so the tensor shows where it was sampled."""
        frame = coordinates(width, height)
        view, transform = run(InputSpec(64, 48, color="bgr", resize=resize, steps=steps), frame)
        sampled, expected = where_sampled(view, transform)
        inside = np.clip(expected, 0.5, (width - 0.5, height - 0.5))  # resize repeats the outermost pixels
        assert np.abs(sampled - inside).max() <= 1.0

    @pytest.mark.parametrize("steps", STEPS[:-1])
    def test_corner_sampling_moves_it_by_less_than_half_an_input_pixel(self, steps: Any) -> None:
        spec = InputSpec(40, 40, color="bgr", sampling="corner", steps=steps)
        view, transform = run(spec, coordinates(240, 150))
        sampled, expected = where_sampled(view, transform)
        zoom = np.abs(transform.matrix[:, :2]).sum(axis=1)
        assert (np.abs(sampled - expected) <= zoom / 2 + 1.0).all()

    @pytest.mark.parametrize(
        ("steps", "expected"),
        [
            ((), (0, 0)),
            ((RotateStep(90),), (0, 100)),  # clockwise: the lower left corner comes to the upper left
            ((RotateStep(180),), (200, 100)),
            ((RotateStep(270),), (200, 0)),
            ((FlipStep("horizontal"),), (200, 0)),
            ((FlipStep("vertical"),), (0, 100)),
            ((CropStep((0.25, 0.5, 1.0, 1.0)),), (50, 50)),
            ((CropStep((0.25, 0.5, 1.0, 1.0)), RotateStep(90)), (50, 100)),
            ((RotateStep(90), CropStep((0.25, 0.5, 1.0, 1.0))), (100, 75)),  # the order counts
        ],
    )
    def test_the_upper_left_corner_of_the_input_is_this_point_of_the_frame(self, steps: Any, expected: Any) -> None:
        _, transform = run(InputSpec(64, 64, resize="stretch", steps=steps), np.zeros((100, 200, 3), np.uint8))
        assert back(transform, 0, 0) == pytest.approx(expected)

    def test_edges_of_the_letterbox_are_the_frames_edges_whatever_was_rounded(self) -> None:
        _, transform = run(InputSpec(128, 128), np.zeros((333, 1000, 3), np.uint8))  # 128 x 42.624 becomes 128 x 43
        assert back(transform, 0, 42) == pytest.approx((0, 0))
        assert back(transform, 128, 85) == pytest.approx((1000, 333))

    def test_it_names_both_sizes_and_can_not_be_written_to(self) -> None:
        _, transform = run(InputSpec(64, 32), np.zeros((100, 200, 3), np.uint8))
        assert (transform.input_wh, transform.frame_wh) == ((64, 32), (200, 100))
        with pytest.raises(ValueError, match="read-only"):
            transform.matrix[0, 0] = 1.0


class TestErrors:
    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((1, 96, 96, 3), "the model takes 1x96x96x3, the manifest says 1x128x128x3"),
            ((1, 3, 128, 128), "the model takes 1x3x128x128.*channels come first"),
            ((2, 128, 128, 3), "the model takes 2x128x128x3"),
            ((1, 128, 128, 1), "the model takes 1x128x128x1"),
            ((1, 128, 128), "the model takes 1x128x128, "),
            ((1, 10), "the model takes 1x10"),
            ((), "the model takes a single number"),
        ],
    )
    def test_another_shape_is_an_error_that_names_both(self, shape: tuple[int, ...], message: str) -> None:
        with pytest.raises(ModelError, match=message):
            Preprocess(InputSpec(128, 128), TensorInfo("image", shape, "float32"))

    @pytest.mark.parametrize("dtype", ["float16", "int16", "int32", "bool", "str"])
    def test_another_dtype_is_an_error(self, dtype: str) -> None:
        with pytest.raises(ModelError, match=f"expected float32, uint8 or int8, got {dtype}"):
            Preprocess(InputSpec(8, 8), TensorInfo("image", (1, 8, 8, 3), dtype))

    @pytest.mark.parametrize("values", [{"mean": (float("nan"),)}, {"std": (1e-300,)}])
    @pytest.mark.parametrize(("dtype", "scale"), [("float32", 0.0), ("int8", 1e-300)])
    def test_values_that_are_no_numbers_are_an_error(self, values: Any, dtype: str, scale: float) -> None:
        with pytest.raises(ModelError, match="not numbers"):
            Preprocess(InputSpec(8, 8, **values), TensorInfo("image", (1, 8, 8, 3), dtype, scale))

    @pytest.mark.parametrize(
        "frame",
        [
            np.zeros((0, 5, 3), np.uint8),
            np.zeros((5, 5, 4), np.uint8),
            np.zeros(5, np.uint8),
            np.zeros((5, 5, 3), float),
        ],
    )
    def test_a_frame_that_is_no_picture_is_an_error(self, frame: np.ndarray) -> None:
        with pytest.raises(ModelError, match="expected a frame of H x W"):
            run(InputSpec(8, 8), frame)


class TestCost:
    @pytest.mark.parametrize("dtype", ["float32", "uint8", "int8"])
    @pytest.mark.parametrize("sampling", ["half_pixel", "corner"])
    def test_a_further_frame_allocates_next_to_nothing(self, dtype: str, sampling: Any) -> None:
        """Neither full-frame temporaries nor new buffers; numpy and cv2's arrays are traced."""
        spec = InputSpec(224, 224, sampling=sampling, **MINUS_ONE_TO_ONE)
        preprocess, view = Preprocess(spec, info(spec, dtype)), np.zeros((1, 224, 224, 3), dtype)
        frame = np.zeros((720, 1280, 3), np.uint8)
        preprocess(frame, view)
        tracemalloc.start()
        try:
            preprocess(frame, view)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 16_384

    def test_the_same_frame_size_gives_the_same_transform_object(self) -> None:
        spec = InputSpec(64, 64)
        preprocess, view = Preprocess(spec, info(spec)), np.zeros((1, 64, 64, 3), np.float32)
        frame = np.zeros((30, 40, 3), np.uint8)
        assert preprocess(frame, view) is preprocess(frame, view)

    def test_opencv_keeps_to_one_thread(self) -> None:
        assert cv2.getNumThreads() == 1


@pytest.mark.runtime
def test_a_real_interpreter_is_not_held_and_keeps_its_border() -> None:
    spec = InputSpec(32, 32, pad_value=9)
    interpreter = Interpreter(make_model(TensorSpec("image", (1, 32, 32, 3))), threads=1)
    preprocess = Preprocess(spec, interpreter.inputs[0])
    for level in (10, 20, 30):
        preprocess(np.full((16, 32, 3), level, np.uint8), interpreter.input_view())
        interpreter.invoke()
        (copy,) = interpreter.output_views()
        assert (copy[0, :8] == 9).all()
        assert (copy[0, 8:24] == level).all()
        del copy
