"""Privacy masks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.masks import masked
from agent.values import Frame

SHARES = st.floats(0, 1)


def frame(picture: np.ndarray, **more: object) -> Frame:
    return Frame(picture, 1, 1, 1, **more)


@pytest.mark.parametrize("shape", [(10, 20, 3), (10, 20)])
def test_boxes_are_black_and_the_rest_stays(shape: tuple[int, ...]):
    picture = np.full(shape, 200, np.uint8)
    picture.flags.writeable = False
    seen = masked(frame(picture), [(0.5, 0.2, 1.0, 0.5)]).data
    assert (seen[2:5, 10:] == 0).all()
    assert seen.sum() == 200 * (picture.size - picture[2:5, 10:].size)
    assert (picture == 200).all()


@given(left=SHARES, top=SHARES, right=SHARES, bottom=SHARES)
def test_no_pixel_that_a_mask_touches_is_seen(left: float, top: float, right: float, bottom: float):
    if left >= right or top >= bottom:
        return
    seen = masked(frame(np.full((7, 9), 1, np.uint8)), [(left, top, right, bottom)]).data
    rows, columns = np.mgrid[0:7, 0:9]
    touched = (rows < bottom * 7) & (rows + 1 > top * 7) & (columns < right * 9) & (columns + 1 > left * 9)
    assert (seen[touched] == 0).all()


def test_without_masks_and_for_samples_nothing_is_copied():
    plain = frame(np.zeros((4, 4), np.uint8))
    sound = frame(np.zeros((4, 1), np.float32), channels=("sound",))
    assert masked(plain, []) is plain
    assert masked(sound, [(0.0, 0.0, 1.0, 1.0)]) is sound
