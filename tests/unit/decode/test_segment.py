"""Maps of confidences: shares and boxes."""

import math

import numpy as np
import pytest

from agent.decode import make_decoder
from agent.errors import ModelError
from agent.manifest import SegmentDecoder
from agent.values import TensorInfo, Transform
from tests.unit.decode import reference
from tests.unit.decode.helpers import info_of, letterbox, quantized, same_size, turned

LABELS = ("road", "car", "dog")


def segments(raw, *, info=None, labels=(), input_wh=(8, 8), transform=None, **options):
    decode = make_decoder(SegmentDecoder(**options), labels, input_wh, [info or info_of(raw)])
    found = decode([raw], transform or same_size(input_wh), 0.9)
    return [(s.label, s.class_id, s.share, s.xyxy) for s in found.segments]


def plane(*boxes, size=(8, 8), value=0.9):
    """A single map with rectangles (left, top, right, bottom) that are set."""
    made = np.zeros((1, *size, 1), np.float32)
    for left, top, right, bottom in boxes:
        made[0, top:bottom, left:right] = value
    return made


def of_classes(ids, count=3):
    """A map in which each cell's best class is the one given."""
    return np.eye(count, dtype=np.float32)[np.array(ids)][None]


def test_a_single_map_says_how_much_is_covered_and_where():
    assert segments(plane((2, 1, 4, 5)), labels=["person"]) == [("person", 0, 0.125, (2, 1, 4, 5))]


def test_the_channel_of_a_single_map_may_be_missing():
    assert segments(plane((2, 1, 4, 5))[..., 0]) == [("0", 0, 0.125, (2, 1, 4, 5))]


def test_the_threshold_belongs_to_the_class():
    raw = plane((0, 0, 4, 8), value=0.6)
    assert len(segments(raw, threshold=0.6)) == 1
    assert segments(raw, threshold=0.61) == []


def test_logits_of_a_single_map_go_through_a_sigmoid():
    raw = plane((0, 0, 4, 8), value=0.4) - 0.2
    assert segments(raw, softmax=True, threshold=0.5) == [("0", 0, 0.5, (0, 0, 4, 8))]
    assert segments(raw, softmax=True, threshold=0.6) == []
    assert segments(raw, softmax=True, threshold=0.0) == [("0", 0, 1.0, (0, 0, 8, 8))]
    assert segments(raw, softmax=True, threshold=1.0) == []


def test_each_cell_belongs_to_its_best_class():
    raw = of_classes([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 2, 2], [0, 0, 2, 2]])
    assert segments(raw, labels=LABELS) == [
        ("road", 0, 0.625, (0, 0, 6, 8)),
        ("dog", 2, 0.25, (4, 4, 8, 8)),
        ("car", 1, 0.125, (6, 0, 8, 4)),
    ]


def test_ignored_and_small_classes_are_left_out():
    raw = of_classes([[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 2, 2], [0, 0, 2, 2]])
    assert [s[1] for s in segments(raw, ignore_classes=(0,))] == [2, 1]
    assert [s[1] for s in segments(raw, min_share=0.2)] == [0, 2]
    assert segments(plane(), min_share=0.0) == []


def test_the_border_of_the_letterbox_does_not_count():
    """A 16 x 8 frame fills the middle half of the input: what the model sees above and below is its own padding."""
    view = letterbox((16, 8), (8, 8))
    assert segments(plane((0, 0, 8, 8)), transform=view) == [("0", 0, 1.0, (0, 0, 16, 8))]
    assert segments(plane((0, 0, 8, 2), (0, 6, 8, 8)), transform=view) == []
    assert segments(plane((0, 0, 4, 4)), transform=view) == [("0", 0, 0.25, (0, 0, 8, 4))]


def test_rotation_and_mirroring_are_undone():
    view = letterbox((16, 8), (8, 8))
    raw = plane((0, 0, 4, 4))  # the top left quarter of what the model sees
    assert segments(raw, transform=turned(view, mirrored=True)) == [("0", 0, 0.25, (8, 0, 16, 4))]
    assert segments(raw, transform=turned(view, 1)) == [("0", 0, 0.25, (0, 8, 4, 16))]
    assert segments(raw, transform=turned(view, 2)) == [("0", 0, 0.25, (8, 4, 16, 8))]
    assert segments(raw, transform=turned(view, 3)) == [("0", 0, 0.25, (4, 0, 8, 8))]


def test_what_the_model_does_not_see_is_not_covered():
    """The middle 8 x 8 of a 16 x 8 frame."""
    crop = Transform(np.array([[1.0, 0, 4], [0, 1.0, 0]]), (8, 8), (16, 8))
    assert segments(plane((0, 0, 8, 8)), transform=crop) == [("0", 0, 0.5, (4, 0, 12, 8))]


def test_a_map_coarser_than_the_input():
    view = letterbox((64, 32), (32, 32))
    raw = plane((0, 0, 4, 2), size=(4, 4))  # four cells of 8 x 8 input pixels each way; the frame is in rows 1 and 2
    assert segments(raw, input_wh=(32, 32), transform=view) == [("0", 0, 0.5, (0, 0, 64, 16))]


def test_a_frame_thinner_than_a_cell_still_has_one():
    view = letterbox((640, 20), (64, 64))
    found = segments(plane((0, 0, 2, 2), size=(2, 2)), input_wh=(64, 64), transform=view)
    assert [s[2] for s in found] == [1.0]


def test_nan_and_inf_belong_to_nothing():
    raw = plane((0, 0, 4, 4))
    raw[0, 0, 0], raw[0, 1, 1], raw[0, 2, 2] = np.nan, np.inf, -np.inf
    assert segments(raw) == [("0", 0, round(13 / 64, 4), (0, 0, 4, 4))]
    maps = of_classes([[0, 1], [2, 2]])
    maps[0, 0, 0, 0], maps[0, 0, 1], maps[0, 1, 0, 1] = np.nan, np.nan, np.inf
    assert [(s[1], s[2]) for s in segments(maps)] == [(2, 0.5), (1, 0.25)]
    for odd in (np.nan, np.inf, -np.inf):
        assert segments(np.full((1, 2, 2, 3), odd, np.float32)) == []


@pytest.mark.parametrize("classes", [1, 4])
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("quarters", [0, 1])
def test_shares_and_boxes_are_those_of_the_definition(classes, dtype, softmax, quarters):
    rng = np.random.default_rng(11)
    real = rng.normal(0.4, 0.3 + softmax, (1, 24, 32, classes)).astype(np.float32)
    raw, info = (real, info_of(real)) if dtype == "float32" else quantized(real, dtype)
    spec = SegmentDecoder(softmax=softmax, threshold=0.617, min_share=0.0)
    view = turned(letterbox((320, 200), (64, 48)), quarters)
    found = make_decoder(spec, (), (64, 48), [info])([raw], view, 0.5).segments
    expected = reference.segments(spec, info, raw, (64, 48), view)
    assert sorted(s.class_id for s in found) == sorted(expected)
    assert [s.share for s in found] == sorted((s.share for s in found), reverse=True)
    for segment in found:
        share, box = expected[segment.class_id]
        assert math.isclose(segment.share, share, abs_tol=1e-4)
        np.testing.assert_allclose(segment.xyxy, box, atol=0.011)


@pytest.mark.parametrize(
    ("shapes", "labels"),
    [
        ([(1, 8, 8, 2)], LABELS),
        ([(1, 8, 8)], LABELS),
        ([(1, 8, 8, 1), (1, 8, 8, 1)], ["person"]),
        ([(1, 64)], ()),
        ([(2, 8, 8, 3)], LABELS),
        ([], ()),
    ],
)
def test_outputs_that_do_not_fit_are_refused(shapes, labels):
    infos = [TensorInfo("map", shape, "float32") for shape in shapes]
    with pytest.raises(
        ModelError, match=r"^decoder segment: expected one map \(1, height, width, .*\), the model has "
    ):
        make_decoder(SegmentDecoder(), labels, (8, 8), infos)
