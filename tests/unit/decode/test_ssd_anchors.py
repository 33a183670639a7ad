"""Raw boxes over a grid of anchors: the grid, the decoding, the options."""

import math

import numpy as np
import pytest

from agent.decode import make_decoder
from agent.decode.ssd_anchors import make_anchors
from agent.errors import ModelError
from agent.manifest import SsdAnchorsDecoder
from agent.values import TensorInfo
from tests.unit.decode import reference
from tests.unit.decode.helpers import assert_same, info_of, quantized, same_size

BLAZEFACE = {"strides": (8, 16, 16, 16), "fixed_anchor_size": True}
SSD = {
    "strides": (16, 32, 64, 128, 256, 512),
    "min_scale": 0.2,
    "max_scale": 0.95,
    "aspect_ratios": (1.0, 2.0, 0.5, 3.0, 0.3333),
    "reduce_boxes_in_lowest_layer": True,
}


@pytest.mark.parametrize(
    ("options", "input_wh", "count"),
    [
        (BLAZEFACE, (128, 128), 896),
        ({"strides": (4,), "fixed_anchor_size": True, "interpolated_scale_aspect_ratio": 0.0}, (192, 192), 2304),
        (SSD, (300, 300), 1917),
        ({**SSD, "num_layers": 6}, (320, 200), 1374),
        ({"strides": (16, 32), "aspect_ratios": (1.0, 2.0), "anchor_offset_x": 0.0}, (65, 33), 63),
        ({"strides": (32,), "aspect_ratios": (0.5,), "anchor_offset_y": 0.25, "min_scale": 0.3}, (64, 96), 12),
        ({"strides": (16, 8, 8), "aspect_ratios": (1.0, 3.0), "interpolated_scale_aspect_ratio": 0.0}, (40, 24), 72),
    ],
)
def test_the_grid_is_mediapipes(options, input_wh, count):
    spec = SsdAnchorsDecoder(**options)
    made = make_anchors(spec, input_wh)
    np.testing.assert_allclose(made, reference.anchors(spec, *input_wh), rtol=0, atol=1e-15)
    assert len(made) == count


def test_known_anchors():
    """By hand, for the SSD of the Object Detection API: first, second and last anchor."""
    made = make_anchors(SsdAnchorsDecoder(**SSD), (300, 300))
    np.testing.assert_allclose(made[0], [0.5 / 19, 0.5 / 19, 0.1, 0.1])
    np.testing.assert_allclose(made[1], [0.5 / 19, 0.5 / 19, 0.2 * math.sqrt(2), 0.2 / math.sqrt(2)])
    np.testing.assert_allclose(made[-1], [0.5, 0.5, math.sqrt(0.95), math.sqrt(0.95)])


# One cell, one anchor in the middle, half as wide and high as the 100 x 200 input.
ONE = {"strides": (200,), "min_scale": 0.5, "max_scale": 0.5, "interpolated_scale_aspect_ratio": 0.0}
INPUT = (100, 200)
VIEW = same_size(INPUT)


def detections(boxes, scores, *, min_confidence=0.0, labels=(), **options):
    raw = [np.array([boxes], np.float32), np.array([scores], np.float32)]
    infos = [info_of(array, name) for array, name in zip(raw, ("boxes", "scores"), strict=True)]
    decode = make_decoder(SsdAnchorsDecoder(**{**ONE, **options}), labels, INPUT, infos)
    return decode(raw, VIEW, min_confidence).detections


def test_a_box_of_ones_is_the_anchor_moved_by_its_own_size():
    (detection,) = detections([[0, 0, 1, 1]], [[0.0]])
    assert (detection.xyxy, detection.confidence) == ((25, 50, 75, 150), 0.5)
    (moved,) = detections([[0.5, 0.25, 1, 1]], [[0.0]])  # y first
    assert moved.xyxy == (37.5, 100, 87.5, 200)


def test_reverse_output_order_is_x_first():
    (detection,) = detections([[0.5, 0.25, 0.5, 1]], [[0.0]], reverse_output_order=True)
    assert detection.xyxy == (62.5, 75, 87.5, 175)


def test_scales_divide():
    options = {"x_scale": 10.0, "y_scale": 5.0, "w_scale": 2.0, "h_scale": 4.0}
    (detection,) = detections([[0.5, 1.0, 2.0, 3.0]], [[0.0]], **options)
    assert detection.xyxy == (17.5, 85.0, 92.5, 135.0)


def test_exponential_sizes():
    (detection,) = detections(
        [[0, 0, math.log(1.5), 0]], [[0.0]], apply_exponential_on_box_size=True, h_scale=0.5, w_scale=9.0
    )
    assert detection.xyxy == (25, 0, 75, 200)  # 1.5 ** 2 = 2.25 times as high: more than the frame
    assert detections([[0, 0, 1e30, 0]], [[0.0]], apply_exponential_on_box_size=True) == []


def test_keypoints_are_decoded_as_centres_are():
    (detection,) = detections([[0, 0, 1, 1, 0.5, 0.25, -1, 0]], [[0.0]], num_keypoints=2)
    assert detection.keypoints == ((62.5, 150), (50, 0))
    (detection,) = detections([[0, 0, 1, 1, 0.5, 0.25]], [[0.0]], num_keypoints=1, reverse_output_order=True)
    assert detection.keypoints == ((75, 125),)
    (detection,) = detections([[0, 0, 0.5, 1, 9, 9]], [[0.0]], num_keypoints=1, keypoint_coord_offset=2)
    assert detection.keypoints == ((100, 150),)


def test_scores_without_sigmoid_are_confidences():
    (detection,) = detections([[0, 0, 1, 1]], [[0.25]], sigmoid_score=False, min_confidence=0.25)
    assert detection.confidence == 0.25
    assert detections([[0, 0, 1, 1]], [[0.25]], sigmoid_score=False, min_confidence=0.26) == []


@pytest.mark.parametrize(("score", "confidence"), [(1000.0, 0.8808), (-1000.0, 0.1192), (1.0, 0.7311)])
def test_scores_are_clipped_before_the_sigmoid(score, confidence):
    (detection,) = detections([[0, 0, 1, 1]], [[score]], score_clipping_thresh=2.0, min_confidence=0.1)
    assert detection.confidence == confidence
    assert detections([[0, 0, 1, 1]], [[score]], score_clipping_thresh=2.0, min_confidence=0.9) == []


@pytest.mark.parametrize(("score", "confidence"), [(3e38, 1.0), (-3e38, 0.0)])
def test_large_scores_do_not_overflow(score, confidence):
    assert [d.confidence for d in detections([[0, 0, 1, 1]], [[score]])] == [confidence]


def test_an_anchor_has_its_best_class():
    (detection,) = detections([[0, 0, 1, 1]], [[-1.0, 2.0, 1.0]], labels=("a", "b", "c"))
    assert (detection.label, detection.class_id, detection.confidence) == ("b", 1, 0.8808)


@pytest.mark.parametrize(
    ("ignored", "class_id"), [((0,), 2), ((0, 2), 3), ((2, 0), 3), ((3, 0), 2), ((1,), 0), ((0, 2, 3), 1), ((7,), 0)]
)
def test_ignored_classes_are_never_the_best(ignored, class_id):
    (detection,) = detections([[0, 0, 1, 1]], [[4.0, 1.0, 3.0, 2.0]], ignore_classes=ignored)
    assert detection.class_id == class_id


def test_nan_and_inf_are_dropped():
    nan, inf = math.nan, math.inf
    assert [d.class_id for d in detections([[0, 0, 1, 1]], [[nan, 1.0, inf, -inf]])] == [1]
    for score in (nan, inf, -inf):
        assert detections([[0, 0, 1, 1]], [[score]]) == []
        assert detections([[0, 0, 1, 1]], [[score, score]]) == []
    for box in ([nan, 0, 1, 1], [0, inf, 1, 1], [0, 0, inf, 1], [0, 0, 1, nan]):
        assert detections([box], [[0.0]]) == []
        assert detections([box], [[0.0]], apply_exponential_on_box_size=True) == []


def test_the_best_thousand_candidates_go_on():
    """All 2,304 anchors say yes: the best thousand count, and with them the very best."""
    rng = np.random.default_rng(1)
    spec = SsdAnchorsDecoder(strides=(4,), interpolated_scale_aspect_ratio=0.0, iou_threshold=1.0, max_detections=1000)
    scores = rng.uniform(1, 2, (1, 2304, 1)).astype(np.float32)
    raw = [np.tile(np.float32([0, 0, 0.1, 0.1]), (1, 2304, 1)), scores]
    decode = make_decoder(spec, (), (192, 192), [info_of(array) for array in raw])
    confidences = [d.confidence for d in decode(raw, same_size((192, 192)), 0.5).detections]
    best = sorted((reference.sigmoid(float(score)) for score in scores.ravel()), reverse=True)[:1000]
    assert confidences == [round(confidence, 4) for confidence in best]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
@pytest.mark.parametrize("min_confidence", [0.0, 0.317, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("nms", ["hard", "weighted"])
def test_quantised_outputs_give_what_dequantising_all_of_them_gives(dtype, min_confidence, nms):
    rng = np.random.default_rng(5)
    spec = SsdAnchorsDecoder(
        strides=(16, 32), num_keypoints=1, nms=nms, iou_threshold=0.317, ignore_classes=(1,), max_detections=1000
    )
    boxes, boxes_info = quantized(rng.uniform(-2, 2, (1, 40, 6)), dtype)
    scores, scores_info = quantized(rng.normal(-1, 3, (1, 40, 3)), dtype)
    decode = make_decoder(spec, (), (64, 64), [boxes_info, scores_info])
    found = decode([boxes, scores], same_size((64, 64)), min_confidence).detections
    expected = reference.ssd_anchors_boxes(spec, (64, 64), (boxes_info, boxes), (scores_info, scores))
    assert_same(found, reference.detections(expected, spec, same_size((64, 64)), min_confidence))


@pytest.mark.parametrize(("min_confidence", "kept"), [(0.0, 3), (0.5, 2), (0.51, 1), (0.9, 0), (1.0, 0)])
def test_thresholds_beyond_the_range_of_int8_neither_wrap_nor_overflow(min_confidence, kept):
    """Logits from -0.5 to 0.5 in int8: confidence 0.9 would be a raw value of 282."""
    raw = [np.zeros((1, 3, 4), np.float32), np.array([[[-128], [0], [127]]], np.int8)]
    raw[0][..., 2:] = 1
    infos = [info_of(raw[0]), TensorInfo("scores", (1, 3, 1), "int8", 1 / 256, 0)]
    spec = SsdAnchorsDecoder(**{**ONE, "strides": (200, 201, 202)}, iou_threshold=1.0)
    assert len(make_decoder(spec, (), INPUT, infos)(raw, VIEW, min_confidence).detections) == kept


def test_outputs_are_found_by_shape():
    boxes, scores = np.zeros((1, 896, 16), np.float32), np.full((1, 896, 1), -9, np.float32)
    boxes[..., 2:4], scores[0, 500] = 20, 9
    spec = SsdAnchorsDecoder(**BLAZEFACE, num_keypoints=6, x_scale=128, y_scale=128, w_scale=128, h_scale=128)
    extra = np.zeros((1, 7), np.float32)
    found = [
        make_decoder(spec, ["face"], (128, 128), [info_of(array) for array in raw])(raw, same_size((128, 128)), 0.5)
        for raw in ([boxes, scores], [scores, boxes], [extra, scores, boxes])
    ]
    assert len(found[0].detections) == 1
    assert found[0] == found[1] == found[2]


def test_if_scores_look_like_boxes_the_boxes_come_first():
    found = detections([[0, 0, 1, 1]], [[-9.0, -9.0, -9.0, 3.0]])
    assert [(d.class_id, d.xyxy) for d in found] == [(3, (25, 50, 75, 150))]


@pytest.mark.parametrize(
    ("shapes", "labels"),
    [
        ([(1, 896, 16), (1, 896, 1)], ["face", "cat"]),
        ([(1, 896, 4), (1, 896, 1)], ["face"]),
        ([(1, 2304, 16), (1, 2304, 1)], ["face"]),
        ([(1, 896, 16)], ["face"]),
        ([(1, 896, 16), (1, 896)], ["face"]),
        ([(2, 896, 16), (2, 896, 1)], ["face"]),
        ([(1, 896, 16), (1, 896, 1), (1, 896, 3)], []),
        ([], []),
    ],
)
def test_outputs_that_do_not_fit_are_refused(shapes, labels):
    spec = SsdAnchorsDecoder(**BLAZEFACE, num_keypoints=6)
    infos = [TensorInfo(f"out{place}", shape, "float32") for place, shape in enumerate(shapes)]
    with pytest.raises(ModelError, match=r"^decoder ssd_anchors: expected boxes \(1, 896, 16\) and scores \(1, 896, "):
        make_decoder(spec, labels, (128, 128), infos)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 3}, "num_layers: expected 1, one for each stride, got 3"),
        ({"num_keypoints": 1, "keypoint_coord_offset": 5}, "keypoint_coord_offset: expected at most 4, got 5"),
        ({"ignore_classes": (0, 1)}, "ignore_classes: expected one class at least that is not ignored"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, message):
    infos = [TensorInfo("boxes", (1, 1, 4), "float32"), TensorInfo("scores", (1, 1, 2), "float32")]
    with pytest.raises(ModelError, match=f"^decoder ssd_anchors: {message}"):
        make_decoder(SsdAnchorsDecoder(**{**ONE, **options}), (), INPUT, infos)


def test_a_grid_that_would_not_fit_into_memory_is_refused_before_it_is_made():
    spec = SsdAnchorsDecoder(strides=(1,) * 16, aspect_ratios=(1.0,) * 16)
    with pytest.raises(ModelError, match="4563402752 anchors"):
        make_decoder(spec, (), (4096, 4096), [TensorInfo("boxes", (1, 896, 4), "float32")])
