"""Pictures out of a stream of bytes, in whatever lumps it comes and whatever stands between them."""

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.capture.jpeg import decode_jpeg
from agent.capture.split import MAX_JPEG_BYTES, JpegSplitter, RawSplitter
from agent.capture.synthetic import picture

JPEGS = [
    cv2.imencode(".jpg", picture(turn, 64, 48), options)[1].tobytes()
    for turn, options in enumerate(
        [
            [],
            [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
            [cv2.IMWRITE_JPEG_RST_INTERVAL, 1],
            [cv2.IMWRITE_JPEG_OPTIMIZE, 1],
            [cv2.IMWRITE_JPEG_QUALITY, 100],
        ]
    )
]
THUMBNAIL = b"\xff\xe1" + (2 + len(JPEGS[0])).to_bytes(2, "big") + JPEGS[0]
WITH_THUMBNAIL = JPEGS[1][:2] + THUMBNAIL + JPEGS[1][2:]


def split(splitter, data, lump=1 << 16):
    return [found for at in range(0, len(data), lump) for found in splitter.feed(data[at : at + lump])]


@pytest.mark.parametrize("lump", [1, 7, 1000, 1 << 20])
def test_jpegs_of_all_codings_come_out_as_they_went_in(lump):
    splitter = JpegSplitter()
    assert split(splitter, b"".join(JPEGS), lump) == JPEGS
    assert splitter.broken == 0


@pytest.mark.parametrize("lump", [1, 7, 1000, 1 << 20])
def test_a_thumbnail_in_the_header_is_part_of_its_picture(lump):
    splitter = JpegSplitter()
    assert split(splitter, WITH_THUMBNAIL + JPEGS[2], lump) == [WITH_THUMBNAIL, JPEGS[2]]
    assert splitter.broken == 0


@pytest.mark.parametrize(
    "junk", [b"", b"GST_ARGUS: Creating output stream\n", b"\r\n--frame\r\n\r\n", bytes(70000), b"\xff"]
)
@pytest.mark.parametrize("lump", [1, 1000])
def test_what_stands_between_pictures_is_left_out(junk, lump):
    splitter = JpegSplitter()
    assert split(splitter, junk + JPEGS[0] + junk + JPEGS[1] + junk, lump) == JPEGS[:2]
    assert splitter.broken == 0


@settings(deadline=None)
@given(cut=st.integers(2, len(JPEGS[0]) - 1), lump=st.integers(500, 5000))
@example(cut=156, lump=500)  # the start of the next picture becomes the end of a table
def test_a_torn_picture_is_noticed_and_later_ones_are_whole(cut, lump):
    """Cut anywhere. What is then taken for the length of a segment may hide some pictures, but not 64 KiB of them.

    A header without pixels may pass unnoticed, as a part of the next picture, which has tables of its own.
    """
    splitter = JpegSplitter()
    followers = JPEGS[1:] * 25  # 91 KB
    found = split(splitter, JPEGS[0][:cut] + b"".join(followers), lump)
    whole = [image.tobytes() for data in found if (image := decode_jpeg(data)) is not None]
    assert splitter.broken + len(found) - len(whole) > 0 or cut < JPEGS[0].index(b"\xff\xda")
    sent = [decode_jpeg(data).tobytes() for data in JPEGS[1:]]
    assert all(pixels in sent for pixels in whole)
    assert whole[-4:] == sent


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300) | st.sampled_from([b"\xff\xd8\xff", b"\xff\xd9", b"\xff\xda\x00\x02", *JPEGS])))
def test_nothing_breaks_it_and_a_later_picture_is_found(pieces):
    splitter = JpegSplitter()
    split(splitter, b"".join(pieces) + bytes(70000), 997)
    assert split(splitter, JPEGS[1] + JPEGS[2] + JPEGS[3], 997)[-2:] == JPEGS[2:4]


def test_a_picture_that_never_ends_is_refused_before_memory_does():
    splitter = JpegSplitter()
    splitter.feed(JPEGS[0][:-2] + bytes(MAX_JPEG_BYTES - len(JPEGS[0])))
    with pytest.raises(ValueError, match="a JPEG over 16 MiB"):
        splitter.feed(bytes(10))


def test_of_junk_nothing_is_kept():
    splitter = JpegSplitter()
    for _ in range(32):
        assert splitter.feed(bytes(1 << 20)) == []
    assert len(splitter._buffer) <= 2


@given(st.lists(st.integers(1, 40)))
def test_raw_pictures_come_out_as_they_went_in(lumps):
    data = np.arange(sum(lumps), dtype=np.uint8).tobytes()
    splitter, found, at = RawSplitter(12), [], 0
    for lump in lumps:
        found += splitter.feed(data[at : at + lump])
        at += lump
    assert found == [data[start : start + 12] for start in range(0, len(data) - 11, 12)]
    assert splitter.broken == 0
