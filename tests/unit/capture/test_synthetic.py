"""Computed frames: known content, the same for the same index."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.synthetic import BACKGROUND_MAX, SQUARE, Synthetic, picture, square_xyxy
from agent.config import SyntheticSource


@given(st.integers(0, 10**9), st.integers(1, 200), st.integers(1, 200))
def test_the_square_is_where_it_is_said_to_be_and_nowhere_else(index, width, height):
    image = picture(index, width, height)
    left, top, right, bottom = square_xyxy(index, width, height)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous
    bright = np.argwhere(image.min(axis=2) == SQUARE)
    assert (tuple(bright.min(axis=0)), tuple(bright.max(axis=0))) == ((top, left), (bottom - 1, right - 1))
    image[top:bottom, left:right] = 0
    assert image.max() <= BACKGROUND_MAX


def test_the_same_index_gives_the_same_picture_and_the_next_another():
    assert np.array_equal(picture(5, 64, 48), picture(5, 64, 48))
    assert not np.array_equal(picture(5, 64, 48), picture(6, 64, 48))


def test_square_and_background_both_move():
    assert square_xyxy(0, 640, 480) == (0, 0, 120, 120)
    assert square_xyxy(10, 640, 480) == (40, 20, 160, 140)
    assert not np.array_equal(picture(0, 640, 480)[400:, 400:], picture(1, 640, 480)[400:, 400:])


@pytest.mark.parametrize("first_index", [0, 3])
def test_it_ends_after_so_many_frames_and_the_content_goes_by_the_index(first_index):
    source = Synthetic(SyntheticSource(width=32, height=24, fps=1000.0, frames=4))
    source.open(first_index)
    frames = [source.read() for _ in range(4)]
    assert source.read() is None
    assert [frame.index for frame in frames] == [first_index + turn for turn in range(4)]
    for frame in frames:
        assert np.array_equal(frame.data, picture(frame.index, 32, 24))
    source.close()
