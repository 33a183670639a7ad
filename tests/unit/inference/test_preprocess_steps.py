"""Steps before the resize: what they do to pixels. Where points go is in test_preprocess."""

from typing import Any

import cv2
import numpy as np
import pytest

from agent.inference.steps import plan_step
from agent.manifest import CropStep, DenoiseStep, EqualizeStep, FlipStep, GammaStep, RotateStep, Step
from tests.sim.bundles import picture_path

LETTERS = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    picture = cv2.imread(str(picture_path("astronaut.png")))
    assert picture is not None
    return np.ascontiguousarray(picture[40:200, 120:300])


def apply(step: Step, picture: np.ndarray) -> np.ndarray:
    planned = plan_step(step, picture.shape)
    out = planned.apply(picture)
    assert out.shape == planned.shape
    assert out.dtype == np.uint8
    return out


@pytest.mark.parametrize("colors", [1, 3])
@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (RotateStep(90), [[4, 1], [5, 2], [6, 3]]),
        (RotateStep(180), [[6, 5, 4], [3, 2, 1]]),
        (RotateStep(270), [[3, 6], [2, 5], [1, 4]]),
        (FlipStep("horizontal"), [[3, 2, 1], [6, 5, 4]]),
        (FlipStep("vertical"), [[4, 5, 6], [1, 2, 3]]),
        (CropStep((1 / 3, 0.0, 1.0, 0.5)), [[2, 3]]),
        (CropStep((0.0, 0.0, 1.0, 1.0)), [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_pixels_move_to_where_they_should(step: Step, expected: Any, colors: int) -> None:
    picture = LETTERS if colors == 1 else np.repeat(LETTERS[..., None], 3, axis=2)
    out = apply(step, picture)
    np.testing.assert_array_equal(out if colors == 1 else out[..., 1], expected)


def test_a_crop_thinner_than_a_pixel_keeps_one() -> None:
    assert apply(CropStep((0.999, 0.999, 1.0, 1.0)), LETTERS).tolist() == [[6]]
    assert apply(CropStep((0.0, 0.0, 0.001, 0.001)), LETTERS).tolist() == [[1]]


def test_the_frame_itself_is_never_written(photo: np.ndarray) -> None:
    frame = photo.copy()
    steps = (RotateStep(90), FlipStep("vertical"), DenoiseStep(), EqualizeStep(), GammaStep(2.0), DenoiseStep("nlm"))
    for step in steps:
        apply(step, frame)
        np.testing.assert_array_equal(frame, photo)


@pytest.mark.parametrize("gamma", [0.4, 1.0, 2.2])
def test_gamma_follows_its_formula(gamma: float) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = np.round(255 * (levels / 255) ** (1 / gamma))
    np.testing.assert_array_equal(apply(GammaStep(gamma), levels), expected)


def test_gamma_over_one_brightens(photo: np.ndarray) -> None:
    assert apply(GammaStep(2.0), photo).mean() > photo.mean() > apply(GammaStep(0.5), photo).mean()


@pytest.mark.parametrize("size_px", [3, 5, 7])
def test_the_median_removes_single_wrong_pixels(size_px: Any) -> None:
    picture = np.full((40, 40, 3), 90, np.uint8)
    picture[::10, ::10] = 255
    assert (apply(DenoiseStep("median", size_px), picture) == 90).all()


@pytest.mark.parametrize("gray", [True, False])
def test_non_local_means_comes_nearer_to_the_picture_without_noise(photo: np.ndarray, gray: bool) -> None:
    clean = cv2.GaussianBlur(photo, (0, 0), 2)
    clean = cv2.cvtColor(clean, cv2.COLOR_BGR2GRAY) if gray else clean
    noise = np.random.default_rng(2).normal(0, 8, clean.shape)
    noisy = np.clip(clean + noise, 0, 255).astype(np.uint8)
    cleaned = apply(DenoiseStep("nlm", 7, 8.0), noisy)
    assert np.abs(cleaned.astype(float) - clean).mean() < 0.6 * np.abs(noisy.astype(float) - clean).mean()


@pytest.mark.parametrize("gray", [True, False])
def test_equalize_spreads_a_picture_of_low_contrast(photo: np.ndarray, gray: bool) -> None:
    dull = (photo // 8 + 100).astype(np.uint8)
    dull = cv2.cvtColor(dull, cv2.COLOR_BGR2GRAY) if gray else dull
    assert apply(EqualizeStep(clip_limit=4.0), dull).std() > 1.5 * dull.std()


def test_equalize_changes_luma_and_keeps_the_colour() -> None:
    ramp = np.tile(np.arange(100, 140, dtype=np.uint8), (40, 1))
    picture = np.stack([ramp, ramp // 2, ramp], axis=-1)
    before, after = (
        cv2.cvtColor(p, cv2.COLOR_BGR2YCrCb).astype(int) for p in (picture, apply(EqualizeStep(), picture))
    )
    assert np.abs(after[..., 0] - before[..., 0]).max() > 5
    assert np.abs(after[..., 1:] - before[..., 1:]).mean() < 2


@pytest.mark.parametrize(
    "step",
    [DenoiseStep("median", 7), DenoiseStep("nlm", 7), EqualizeStep(tiles=64), RotateStep(90), FlipStep("vertical")],
)
@pytest.mark.parametrize("shape", [(1, 1), (1, 1, 3), (1, 9, 3), (9, 1), (2, 3, 3)])
def test_pictures_of_hardly_any_pixels_are_no_trouble(step: Step, shape: tuple[int, ...]) -> None:
    apply(step, np.full(shape, 100, np.uint8))


def test_steps_read_pictures_that_are_parts_of_larger_ones(photo: np.ndarray) -> None:
    part = photo[3:50, 5:60]
    for step in (RotateStep(270), FlipStep("horizontal"), DenoiseStep(), EqualizeStep(), GammaStep(0.7)):
        np.testing.assert_array_equal(apply(step, part), apply(step, np.ascontiguousarray(part)))
