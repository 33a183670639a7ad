"""Preprocess for any frame size, mode, dtype and chain of steps: never raises, fills the tensor, knows the way back."""

from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agent.inference.preprocess import Preprocess
from agent.manifest import CropStep, DenoiseStep, EqualizeStep, FlipStep, GammaStep, InputSpec, RotateStep
from agent.values import TensorInfo, Transform

shares = st.tuples(st.floats(0, 0.9), st.floats(0, 0.9), st.floats(0.05, 1), st.floats(0.05, 1)).map(
    lambda box: (box[0], box[1], max(box[2], min(1.0, box[0] + 0.01)), max(box[3], min(1.0, box[1] + 0.01)))
)
moves = st.one_of(
    st.builds(CropStep, shares),
    st.sampled_from([RotateStep(90), RotateStep(180), RotateStep(270), FlipStep("horizontal"), FlipStep("vertical")]),
)
filters = st.one_of(
    st.builds(DenoiseStep, st.just("median"), st.sampled_from([3, 5, 7])),
    st.builds(EqualizeStep, st.floats(0.1, 50), st.integers(1, 64)),
    st.builds(GammaStep, st.floats(0.05, 10)),
)
means = st.one_of(st.just((0.0,)), st.just((127.5,)), st.tuples(*[st.floats(-300, 300)] * 3))
stds = st.one_of(st.just((1.0,)), st.just((255.0,)), st.tuples(*[st.floats(0.01, 300)] * 3))
sizes = st.one_of(st.integers(1, 20), st.integers(1, 2000))


@st.composite
def specs(draw: st.DrawFn, steps: st.SearchStrategy[Any]) -> InputSpec:
    color = draw(st.sampled_from(["rgb", "bgr", "gray"]))
    mean, std = draw(means), draw(stds)
    return InputSpec(
        draw(st.integers(1, 300)),
        draw(st.integers(1, 300)),
        color=color,
        resize=draw(st.sampled_from(["letterbox", "crop", "stretch"])),
        sampling=draw(st.sampled_from(["half_pixel", "corner"])),
        pad_value=draw(st.integers(0, 255)),
        mean=mean[:1] if color == "gray" else mean,
        std=std[:1] if color == "gray" else std,
        steps=tuple(draw(st.lists(steps, max_size=4))),
    )


def points(transform: Transform, xy: np.ndarray) -> np.ndarray:
    """N x 2 of the input to N x 2 of the frame."""
    return xy @ transform.matrix[:, :2].T + transform.matrix[:, 2]


@settings(max_examples=150, deadline=None)
@given(
    spec=specs(st.one_of(moves, filters)),
    frames=st.lists(st.tuples(sizes, sizes, st.sampled_from([(), (3,)])), min_size=1, max_size=3),
    quantised=st.sampled_from([("float32", 0.0, 0), ("uint8", 0.0, 0), ("uint8", 1 / 255, 0), ("int8", 0.0078, -3)]),
)
def test_any_frame_fills_the_tensor_and_the_input_lies_inside_the_frame(
    spec: InputSpec, frames: list[tuple[int, int, tuple[int, ...]]], quantised: tuple[str, float, int]
) -> None:
    shape = (1, spec.height_px, spec.width_px, 1 if spec.color == "gray" else 3)
    preprocess = Preprocess(spec, TensorInfo("image", shape, *quantised))
    view = np.full(shape, np.nan if quantised[0] == "float32" else 99, quantised[0])
    for height, width, channels in frames:
        transform = preprocess(np.full((height, width, *channels), 200, np.uint8), view)
        assert transform.frame_wh == (width, height)
        assert transform.input_wh == (spec.width_px, spec.height_px)
        assert np.isfinite(view.astype(float)).all()
        middle = points(transform, np.array([[spec.width_px / 2, spec.height_px / 2]]))[0]
        slack = np.abs(transform.matrix[:, :2]).sum(axis=1)  # an odd border is wider by one pixel at one side
        assert (middle >= -slack).all()
        assert (middle <= np.array([width, height]) + slack).all()


@settings(max_examples=150, deadline=None)
@given(spec=specs(moves), width=st.integers(1, 2000), height=st.integers(1, 2000), data=st.data())
def test_the_way_back_is_one_to_one_and_keeps_each_axis_scale(
    spec: InputSpec, width: int, height: int, data: st.DataObject
) -> None:
    """Every input pixel has one place in the frame; letterbox and crop keep the aspect but for whole pixels."""
    shape = (1, spec.height_px, spec.width_px, 1 if spec.color == "gray" else 3)
    transform = Preprocess(spec, TensorInfo("image", shape, "float32"))(
        np.zeros((height, width, 3), np.uint8), np.zeros(shape, np.float32)
    )
    inverse = np.linalg.inv(np.vstack([transform.matrix, [0, 0, 1]]))
    xy = np.array([[data.draw(st.floats(0, spec.width_px)), data.draw(st.floats(0, spec.height_px))]])
    there = points(transform, xy)
    again = np.append(there[0], 1.0) @ inverse.T
    np.testing.assert_allclose(again[:2], xy[0], atol=1e-6)
    assert (np.count_nonzero(transform.matrix[:, :2], axis=1) == 1).all()  # turned by right angles only


@settings(max_examples=100, deadline=None)
@given(
    spec=specs(st.sampled_from([RotateStep(90), RotateStep(180), RotateStep(270), FlipStep("horizontal")])),
    width=st.integers(40, 900),
    height=st.integers(40, 900),
    data=st.data(),
)
def test_a_mark_in_the_frame_is_found_again_within_half_an_input_pixel(
    spec: InputSpec, width: int, height: int, data: st.DataObject
) -> None:
    """A white rectangle of several input pixels; its middle in the tensor, taken back, is its middle in the frame."""
    shape = (1, spec.height_px, spec.width_px, 1 if spec.color == "gray" else 3)
    preprocess = Preprocess(
        InputSpec(
            spec.width_px,
            spec.height_px,
            color=spec.color,
            resize=spec.resize,
            sampling=spec.sampling,
            steps=spec.steps,
        ),
        TensorInfo("image", shape, "float32"),
    )
    frame, view = np.zeros((height, width, 3), np.uint8), np.zeros(shape, np.float32)
    zoom = np.abs(preprocess(frame, view).matrix[:, :2]).sum(axis=1)  # frame pixels an input pixel
    box_w, box_h = (int(4 * max(size, 1.0)) for size in zoom)
    assume(box_w < width - 2 and box_h < height - 2)
    left = data.draw(st.integers(1, width - box_w - 1))
    top = data.draw(st.integers(1, height - box_h - 1))
    frame[top : top + box_h, left : left + box_w] = 255
    transform = preprocess(frame, view)
    corners = np.array([[0, 0], [spec.width_px, spec.height_px]])
    low, high = np.sort(points(transform, corners), axis=0)
    assume(left > low[0] and top > low[1] and left + box_w < high[0] and top + box_h < high[1])  # not cut by `crop`
    weights = view[0, ..., 0].astype(float)
    ys, xs = np.mgrid[: spec.height_px, : spec.width_px] + 0.5
    centre = np.array([[(weights * xs).sum() / weights.sum(), (weights * ys).sum() / weights.sum()]])
    error = np.abs(points(transform, centre)[0] - (left + box_w / 2, top + box_h / 2)) / np.maximum(zoom, 1.0)
    # Sampling at corners shifts by half an input pixel at most, and Transform leaves that in, as MediaPipe does.
    assert error.max() <= (0.5 if spec.sampling == "half_pixel" else 1.0) + 0.05
