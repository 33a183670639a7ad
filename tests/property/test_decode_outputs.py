"""Every decoder against the naive one, on tensors of all dtypes with anything in them."""

import json
import math

import msgspec
import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from agent.decode import make_decoder
from agent.decode.confidence import logit, raw_floor, sigmoid
from agent.manifest import (
    ClassifyDecoder,
    RegressDecoder,
    SegmentDecoder,
    SsdAnchorsDecoder,
    SsdDecoder,
    YoloDecoder,
)
from agent.values import TensorInfo
from tests.unit.decode import reference
from tests.unit.decode.helpers import assert_same, letterbox

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
DTYPES = ("float32", "float16", "int8", "uint8", "int16")
FRAME = (320, 200)
# No share that simple numbers can have: on which side of a tie two roundings fall is not defined.
MIN_CONFIDENCE = st.sampled_from([0.0, 0.0317, 0.317, 0.5171, 0.9371, 1.0])
IOU = st.sampled_from([0.1117, 0.317, 0.453, 0.719])
NMS = st.sampled_from(["hard", "weighted"])


@st.composite
def tensors(draw, shape, low, high, dtypes=DTYPES):
    """Raw values of some dtype that stand for low to high, or anything at all for floats; and what the model says."""
    dtype = draw(st.sampled_from(dtypes))
    if dtype.startswith("float"):
        width = int(dtype.removeprefix("float"))
        usual = st.floats(low, high, width=width)
        odd = st.floats(width=width)
        elements = draw(st.sampled_from([usual, usual, st.one_of(usual, odd)]))
        return draw(hnp.arrays(dtype, shape, elements=elements, fill=usual)), TensorInfo("out", shape, dtype)
    span = np.iinfo(dtype)
    scale = (high - low) / (span.max - span.min)
    info = TensorInfo("out", shape, dtype, float(np.float32(scale)), round(span.min - low / scale))
    return draw(hnp.arrays(dtype, shape, fill=st.integers(span.min, span.max))), info


@unhurried
@given(
    st.sampled_from(["int8", "uint8", "int16"]),
    st.floats(2.0**-100, 2.0**100, width=32),
    st.integers(-300, 300),
    st.one_of(st.floats(-1e6, 1e6), st.sampled_from([-math.inf, 0.0, 1.0]), st.integers(0, 255)),
)
def test_the_raw_threshold_parts_what_dequantised_values_would(dtype, scale, zero_point, real):
    info = TensorInfo("out", (1,), dtype, scale, zero_point)
    span = np.iinfo(dtype)
    values = np.arange(span.min, span.max + 1).astype(dtype)
    if isinstance(real, int):  # exactly what a raw value stands for
        real = float(info.dequantize(values[real : real + 1])[0])
    np.testing.assert_array_equal(values >= raw_floor(info, real), info.dequantize(values).astype(np.float64) >= real)


@unhurried
@given(st.floats(0, 1))
def test_sigmoid_undoes_logit(confidence):
    assert math.isclose(sigmoid(max(-800.0, logit(confidence))), confidence, abs_tol=1e-9)


@unhurried
@given(tensors((1, 12), -6, 6), st.booleans(), st.integers(1, 15), MIN_CONFIDENCE)
def test_classify(output, softmax, top_k, min_confidence):
    raw, info = output
    decode = make_decoder(ClassifyDecoder(softmax=softmax, top_k=top_k), (), (8, 8), [info])
    found = decode([raw], letterbox(FRAME, (8, 8)), min_confidence).classes
    expected = reference.classes(info, raw, softmax=softmax, top_k=top_k, min_confidence=min_confidence)
    assert [c.class_id for c in found] == [class_id for class_id, _ in expected]
    for one, (_, confidence) in zip(found, expected, strict=True):
        assert math.isclose(one.confidence, confidence, rel_tol=1e-6, abs_tol=0.51e-4)


@unhurried
@given(tensors((1, 5), -6, 6), st.floats(-1e3, 1e3), st.floats(-1e3, 1e3))
def test_regress(output, scale, offset):
    raw, info = output
    spec = RegressDecoder(scale=scale, offset=offset)
    found = make_decoder(spec, (), (8, 8), [info])([raw], letterbox(FRAME, (8, 8)), 0.5).values
    np.testing.assert_allclose(found, reference.numbers(spec, info, raw), rtol=1e-6)


@unhurried
@given(st.data(), IOU, NMS, MIN_CONFIDENCE)
def test_ssd(data, iou_threshold, nms, min_confidence):
    outputs = [
        data.draw(tensors(shape, low, high))
        for shape, low, high in (((1, 9, 4), -0.25, 1.25), ((1, 9), 0, 4), ((1, 9), 0, 1), ((1,), -1, 12))
    ]
    names = ("location", "category", "score", "count")
    infos = [TensorInfo(n, i.shape, i.dtype, i.scale, i.zero_point) for n, (_, i) in zip(names, outputs, strict=True)]
    arrays = [raw for raw, _ in outputs]
    spec, view = SsdDecoder(iou_threshold=iou_threshold, nms=nms), letterbox(FRAME, (64, 64))
    found = make_decoder(spec, (), (64, 64), infos)(arrays, view, min_confidence).detections
    expected = reference.ssd_boxes((64, 64), *zip(infos, arrays, strict=True))
    assert_same(found, reference.detections(expected, spec, view, min_confidence))


@unhurried
@given(
    st.data(),
    st.builds(
        SsdAnchorsDecoder,
        strides=st.just((16, 32)),
        aspect_ratios=st.sampled_from([(1.0,), (1.0, 2.0, 0.3333)]),
        interpolated_scale_aspect_ratio=st.sampled_from([0.0, 1.0]),
        fixed_anchor_size=st.booleans(),
        reduce_boxes_in_lowest_layer=st.booleans(),
        anchor_offset_x=st.sampled_from([0.5, 0.0]),
        x_scale=st.sampled_from([1.0, 7.0]),
        h_scale=st.sampled_from([1.0, 3.0]),
        apply_exponential_on_box_size=st.booleans(),
        score_clipping_thresh=st.sampled_from([None, 2.5, 100.0]),
        sigmoid_score=st.booleans(),
        num_keypoints=st.sampled_from([0, 2]),
        reverse_output_order=st.booleans(),
        ignore_classes=st.sampled_from([(), (0,), (1,), (2,)]),
        iou_threshold=IOU,
        nms=NMS,
        max_detections=st.just(1000),
    ),
    MIN_CONFIDENCE,
)
def test_ssd_anchors(data, spec, min_confidence):
    input_wh = (32, 48)
    count = len(reference.anchors(spec, *input_wh))
    boxes, boxes_info = data.draw(tensors((1, count, 4 + 2 * spec.num_keypoints), -2, 2))
    scores, scores_info = data.draw(tensors((1, count, 3), -5, 5))
    view = letterbox(FRAME, input_wh)
    found = make_decoder(spec, (), input_wh, [boxes_info, scores_info])([boxes, scores], view, min_confidence)
    expected = reference.ssd_anchors_boxes(spec, input_wh, (boxes_info, boxes), (scores_info, scores))
    assert_same(found.detections, reference.detections(expected, spec, view, min_confidence))


@unhurried
@given(
    st.data(),
    st.sampled_from(["v5", "v8", "v11"]),
    st.booleans(),
    st.booleans(),
    IOU,
    NMS,
    MIN_CONFIDENCE,
)
def test_yolo(data, version, normalized, transposed, iou_threshold, nms, min_confidence):
    spec = YoloDecoder(version=version, normalized=normalized, iou_threshold=iou_threshold, nms=nms)
    fields = 8 if version == "v5" else 7
    shape = (1, 21, fields) if (version == "v5") != transposed else (1, fields, 21)
    raw, info = data.draw(tensors(shape, 0, 1 if normalized else 40))
    view = letterbox(FRAME, (32, 32))
    found = make_decoder(spec, ("a", "b", "c"), (32, 32), [info])([raw], view, min_confidence).detections
    rows = raw[0] if shape[2] == fields else raw[0].T
    expected = reference.yolo_boxes(spec, (32, 32), info, rows, min_confidence)
    assert_same(found, reference.detections(expected, spec, view, min_confidence))


@unhurried
@given(
    st.data(),
    st.sampled_from([1, 3]),
    st.booleans(),
    st.sampled_from([0.0, 0.317, 0.717, 1.0]),
    st.sampled_from([(8, 8), (6, 10)]),
)
def test_segment(data, classes, softmax, threshold, size):
    raw, info = data.draw(tensors((1, *size, classes), -4 if softmax else 0, 4 if softmax else 1))
    spec = SegmentDecoder(softmax=softmax, threshold=threshold, min_share=0.0)
    view = letterbox((310, 217), (64, 64))
    found = make_decoder(spec, (), (64, 64), [info])([raw], view, 0.5).segments
    expected = reference.segments(spec, info, raw, (64, 64), view)
    assert sorted(s.class_id for s in found) == sorted(expected)
    for segment in found:
        share, box = expected[segment.class_id]
        assert math.isclose(segment.share, share, abs_tol=1e-4)
        np.testing.assert_allclose(segment.xyxy, box, atol=0.011)


@unhurried
@given(st.data(), st.floats(0, 1), st.sampled_from(["ssd", "ssd_anchors", "yolo"]))
def test_whatever_the_bits_are_there_is_no_exception_and_no_nan(data, min_confidence, kind):
    """Bytes as they may lie in memory, read as float32: NaNs with payloads, denormals, both infinities."""

    def junk(*shape):
        size = int(np.prod(shape)) * 4
        return np.frombuffer(data.draw(st.binary(min_size=size, max_size=size)), np.float32).reshape(shape)

    if kind == "ssd":
        arrays = [junk(1, 6, 4), junk(1, 6), junk(1, 6), np.array([6], np.float32)]
        spec, labels = SsdDecoder(nms="weighted"), ()
    elif kind == "ssd_anchors":
        arrays = [junk(1, 10, 6), junk(1, 10, 2)]
        spec = SsdAnchorsDecoder(strides=(16, 32), num_keypoints=1, apply_exponential_on_box_size=True, nms="weighted")
        labels = ("a", "b")
    else:
        arrays = [junk(1, 6, 21)]
        spec, labels = YoloDecoder(version="v8", nms="weighted", normalized=False), ("a", "b")
    names = ("boxes", "classes", "scores", "count")
    infos = [TensorInfo(name, array.shape, "float32") for name, array in zip(names, arrays, strict=False)]
    found = make_decoder(spec, labels, (32, 32), infos)(arrays, letterbox(FRAME, (32, 32)), min_confidence)
    json.dumps(msgspec.to_builtins(found), allow_nan=False)
