"""JPEGs from cameras: whole ones are decoded as OpenCV does, damaged ones never pass where that can be noticed."""

import itertools
import time

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.capture.jpeg import decode_jpeg

Q, RESTART, SAMPLING = cv2.IMWRITE_JPEG_QUALITY, cv2.IMWRITE_JPEG_RST_INTERVAL, cv2.IMWRITE_JPEG_SAMPLING_FACTOR
KINDS = {
    "4:2:0": [SAMPLING, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420],
    "4:2:2": [SAMPLING, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422],
    "4:4:4": [SAMPLING, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
    "own tables": [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
    "progressive": [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
    "restarts": [RESTART, 3],
}


def scene(width=127, height=95, turn=0):
    """Soft shapes and some noise: something like a photograph, other with each turn."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    planes = [127 + 90 * np.sin(x / (11 + c) + turn) * np.cos(y / (17 - c)) for c in range(3)]
    noise = np.random.default_rng(turn).normal(0, 8, (height, width, 3))
    return np.clip(np.dstack(planes) + noise, 0, 255).astype(np.uint8)


def encode(image, *options):
    return cv2.imencode(".jpg", image, [Q, 85, *options])[1].tobytes()


def by_opencv(jpeg):
    return cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)


JPEGS = {name: encode(scene(), *options) for name, options in KINDS.items()}
WHOLE = JPEGS["4:2:0"]
PIXELS = WHOLE.index(b"\xff\xda") + 14
kinds = pytest.mark.parametrize("jpeg", JPEGS.values(), ids=JPEGS)


@kinds
def test_a_whole_picture_is_what_opencv_makes_of_it(jpeg):
    image = decode_jpeg(jpeg)
    assert np.array_equal(image, by_opencv(jpeg))
    assert (image.dtype, image.flags.c_contiguous, image.flags.owndata) == (np.uint8, True, True)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (16, 16), (17, 33), (640, 480)])
@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
def test_every_size_is_decoded(size, options):
    jpeg = encode(scene(*size), *options)
    assert np.array_equal(decode_jpeg(jpeg), by_opencv(jpeg))


def test_gray_becomes_three_channels():
    jpeg = encode(scene()[:, :, 0])
    assert np.array_equal(decode_jpeg(jpeg), by_opencv(jpeg))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda jpeg: np.frombuffer(jpeg, np.uint8)[None].data])
def test_any_kind_of_memory_will_do(kind):
    assert decode_jpeg(kind(WHOLE)).shape == (95, 127, 3)


@kinds
@given(padding=st.binary(max_size=100))
@settings(max_examples=20, deadline=None)
def test_bytes_behind_the_end_are_left_alone(jpeg, padding):
    assert np.array_equal(decode_jpeg(jpeg + padding), by_opencv(jpeg))


def test_fill_bytes_before_markers_are_no_damage():
    table, end = WHOLE.index(b"\xff\xdb"), len(WHOLE) - 2
    filled = WHOLE[:table] + b"\xff\xff" + WHOLE[table:end] + b"\xff\xff\xff" + WHOLE[end:]
    assert np.array_equal(decode_jpeg(filled), by_opencv(WHOLE))


def test_a_camera_that_leaves_out_the_standard_tables_is_understood():
    """Motion JPEG may come without Huffman tables; everybody knows them."""
    without = WHOLE
    while (at := without.find(b"\xff\xc4")) >= 0:
        without = without[:at] + without[at + 2 + int.from_bytes(without[at + 2 : at + 4], "big") :]
    assert np.array_equal(decode_jpeg(without), by_opencv(WHOLE))


@kinds
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_picture_that_was_cut_off_is_never_taken(jpeg, data):
    rest = jpeg[: data.draw(st.integers(0, len(jpeg) - 1))]
    assert decode_jpeg(rest) is None
    assert decode_jpeg(rest + bytes(data.draw(st.integers(0, 5000)))) is None


@kinds
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_a_picture_that_another_one_cuts_off_is_never_mixed_with_it(jpeg, data):
    rest = jpeg[: data.draw(st.integers(0, len(jpeg) - 1))]
    other = encode(scene(turn=1))
    image = decode_jpeg(rest + other)
    mixed = image is not None and not np.array_equal(image, by_opencv(other))
    assert not mixed


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_picture_with_a_hole_of_a_packet_is_never_taken(data):
    at = data.draw(st.integers(PIXELS, len(WHOLE) - 1026))
    assert decode_jpeg(WHOLE[:at] + WHOLE[at + 1024 :]) is None


@pytest.mark.parametrize("lost", [2, 200])
def test_a_restart_marker_that_is_missing_is_noticed(lost):
    jpeg = JPEGS["restarts"]
    at = jpeg.index(b"\xff\xd3")
    assert by_opencv(jpeg[:at] + jpeg[at + lost :]) is not None
    assert decode_jpeg(jpeg[:at] + jpeg[at + lost :]) is None


def test_restart_markers_in_the_wrong_order_are_noticed():
    jpeg = JPEGS["restarts"]
    first, second = jpeg.index(b"\xff\xd1"), jpeg.index(b"\xff\xd2")
    swapped = bytearray(jpeg)
    swapped[first + 1], swapped[second + 1] = 0xD2, 0xD1
    assert decode_jpeg(swapped) is None


def test_one_restart_marker_more_at_the_end_is_no_damage():
    jpeg = JPEGS["restarts"]
    last = next(
        marker for at in range(len(jpeg) - 3, 0, -1) if (marker := jpeg[at + 1]) & 0xF8 == 0xD0 and jpeg[at] == 0xFF
    )
    more = jpeg[:-2] + bytes([0xFF, 0xD0 | (last + 1) & 7]) + jpeg[-2:]
    assert np.array_equal(decode_jpeg(more), by_opencv(jpeg))


def test_half_a_picture_that_goes_on_in_the_next_is_noticed_when_less_than_a_whole_one_is_left():
    scenes = [encode(scene(turn=turn)) for turn in range(20)]
    for one, next_one in itertools.pairwise(scenes):
        middle = len(one) // 2
        assert decode_jpeg(one[:middle] + next_one[middle + 1024 :]) is None


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_junk_is_no_picture(junk):
    assert decode_jpeg(junk) is None
    assert decode_jpeg(b"\xff\xd8" + junk) is None


@kinds
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_bytes_that_were_changed_never_raise(jpeg, data):
    changed = bytearray(jpeg)
    for at in data.draw(st.lists(st.integers(0, len(jpeg) - 1), min_size=1, max_size=5)):
        changed[at] = data.draw(st.integers(0, 255))
    image = decode_jpeg(changed)
    assert image is None or image.ndim == 3


@pytest.mark.parametrize("name", [b"\xff\xc0", b"\xff\xda", b"\xff\xdb"])
def test_a_header_without_one_of_its_parts_is_noticed(name):
    at = WHOLE.index(name)
    assert decode_jpeg(WHOLE[:at] + WHOLE[at + 2 + int.from_bytes(WHOLE[at + 2 : at + 4], "big") :]) is None


def test_a_header_that_divides_by_zero_is_noticed():
    at = WHOLE.index(b"\xff\xc0") + 11
    assert decode_jpeg(WHOLE[:at] + b"\0" + WHOLE[at + 1 :]) is None
    assert decode_jpeg(b"\xff\xd8\xff\xd9") is None


def test_a_header_that_promises_more_than_a_frame_may_have_is_refused_before_it_is_decoded():
    huge = bytearray(WHOLE)
    at = huge.index(b"\xff\xc0") + 5
    huge[at : at + 4] = (65_000).to_bytes(2, "big") * 2
    assert decode_jpeg(huge) is None


@pytest.mark.parametrize(
    "hostile",
    [
        b"\xff\xd8" + b"\xff" * 4_000_000,
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 1_000_000,
        b"\xff\xd8" + b"\xff\xfe\x00\x00" * 1_000_000,
        WHOLE[:PIXELS] + b"\xff\xd0" * 2_000_000 + b"\xff\xd9",
        WHOLE[:PIXELS] + b"\xff\x00" * 2_000_000,
        WHOLE[:PIXELS] + b"\xff" * 4_000_000,
    ],
    ids=["fill", "comments", "comments without length", "restarts", "stuffing", "fill in pixels"],
)
def test_what_was_made_to_take_long_does_not(hostile):
    began_s = time.process_time()
    assert decode_jpeg(hostile) is None
    assert time.process_time() - began_s < 2.0
