"""YOLO v5, v8 and v11, on tensors that were written by hand."""

import numpy as np
import pytest

from agent.decode import make_decoder
from agent.errors import ModelError
from agent.manifest import YoloDecoder
from agent.values import TensorInfo
from tests.unit.decode import reference
from tests.unit.decode.helpers import assert_same, info_of, letterbox, quantized, same_size

INPUT = (64, 32)
LABELS = ("ant", "bee", "cat")
# x, y, w, h, objectness, three classes
ROWS = np.array(
    [
        [0.50, 0.5, 0.25, 0.5, 0.9, 0.1, 0.8, 0.1],
        [0.51, 0.5, 0.25, 0.5, 0.8, 0.1, 0.7, 0.1],  # the same again
        [0.50, 0.5, 0.25, 0.5, 0.9, 0.6, 0.1, 0.1],  # there too, but of another class
        [0.90, 0.1, 0.40, 0.4, 0.5, 0.0, 0.0, 0.9],  # reaches over the edge
        [0.20, 0.2, 0.20, 0.2, 0.1, 0.9, 0.9, 0.9],  # hardly an object
    ],
    np.float32,
)


def v5(rows):
    return rows[None]


def v8(rows):
    return np.delete(rows, 4, axis=1).T[None]


def decoder(raw, *, labels=LABELS, input_wh=INPUT, **options):
    return make_decoder(YoloDecoder(**options), labels, input_wh, [info_of(raw)])


def detections(raw, *, min_confidence=0.3, input_wh=INPUT, **options):
    found = decoder(raw, input_wh=input_wh, **options)([raw], same_size(input_wh), min_confidence)
    return [(d.label, d.confidence, d.xyxy) for d in found.detections]


def test_v5_multiplies_objectness_and_class():
    assert detections(v5(ROWS), version="v5") == [
        ("bee", 0.72, (24, 8, 40, 24)),
        ("ant", 0.54, (24, 8, 40, 24)),
        ("cat", 0.45, (44.8, 0, 64, 9.6)),
    ]


@pytest.mark.parametrize("version", ["v8", "v11"])
def test_v8_and_v11_have_no_objectness(version):
    assert detections(v8(ROWS), version=version) == [
        ("cat", 0.9, (44.8, 0, 64, 9.6)),
        ("ant", 0.9, (6.4, 3.2, 19.2, 9.6)),
        ("bee", 0.8, (24, 8, 40, 24)),
        ("ant", 0.6, (24, 8, 40, 24)),
    ]


@pytest.mark.parametrize(("version", "layout"), [("v5", v5), ("v8", v8), ("v11", v8)])
def test_boxes_in_input_pixels(version, layout):
    in_pixels = ROWS.copy()
    in_pixels[:, :4] *= (64, 32, 64, 32)
    expected = detections(layout(ROWS), version=version)
    assert detections(layout(in_pixels), version=version, normalized=False) == expected


@pytest.mark.parametrize(("version", "layout"), [("v5", v5), ("v8", v8), ("v11", v8)])
def test_the_other_way_round_is_understood_too(version, layout):
    expected = detections(layout(ROWS), version=version)
    assert detections(layout(ROWS).transpose(0, 2, 1), version=version) == expected
    assert detections(np.ascontiguousarray(layout(ROWS).transpose(0, 2, 1)), version=version) == expected


@pytest.mark.parametrize(("version", "layout"), [("v5", v5), ("v8", v8)])
def test_without_labels_the_number_of_boxes_tells_the_layout(version, layout):
    """64 x 32 gives 8 x 4 + 4 x 2 + 2 x 1 boxes, three times as many in v5: fewer boxes than fields may be either."""
    boxes = 42 * (3 if version == "v5" else 1)
    rows = np.zeros((boxes, 205), np.float32)
    rows[:5, :8] = ROWS
    expected = [(str(LABELS.index(label)), *rest) for label, *rest in detections(layout(ROWS), version=version)]
    assert detections(layout(rows), version=version, labels=()) == expected
    assert detections(layout(rows).transpose(0, 2, 1), version=version, labels=()) == expected


@pytest.mark.parametrize(("version", "layout"), [("v5", v5), ("v8", v8)])
def test_when_both_layouts_are_possible_it_is_the_versions_own(version, layout):
    fields = 8 if version == "v5" else 7
    square = layout(np.vstack((ROWS, np.zeros((fields - len(ROWS), 8), np.float32))))
    assert square.shape == (1, fields, fields)
    assert detections(square, version=version) == detections(layout(ROWS), version=version)
    assert detections(square, version=version, labels=())[0][1:] == detections(layout(ROWS), version=version)[0][1:]


def test_objectness_must_itself_reach_the_threshold():
    """As in YOLOv5's own post-processing: a class of 5 (which a proper model does not give) does not make up for it."""
    row = np.array([[0.5, 0.5, 0.5, 0.5, 0.2, 5.0, 0, 0]], np.float32)
    assert detections(v5(row), version="v5", min_confidence=0.5) == []
    assert len(detections(v5(row), version="v5", min_confidence=0.2)) == 1


def test_boxes_are_mapped_to_the_frame():
    """A 32 x 32 frame is in the middle of the 64 x 32 input, 16 pixels from the left."""
    found = decoder(v8(ROWS), version="v8")([v8(ROWS)], letterbox((32, 32), INPUT), 0.7).detections
    assert [d.xyxy for d in found] == [(28.8, 0, 32, 9.6), (0, 3.2, 3.2, 9.6), (8, 8, 24, 24)]


def test_nan_and_inf_are_dropped():
    rows = ROWS.copy()
    rows[0, 5], rows[2, 0], rows[3, 4], rows[1, 6] = np.nan, np.inf, np.inf, -np.inf
    assert [d[:2] for d in detections(v5(rows), version="v5")] == [("bee", 0.72)]
    rows[0, 5:] = np.nan
    assert detections(v5(rows), version="v5", min_confidence=0.0)[:1] == [("ant", 0.09, (6.4, 3.2, 19.2, 9.6))]
    for odd in (np.nan, np.inf, -np.inf):
        assert detections(np.full((1, 7, 9), odd, np.float32), version="v8", min_confidence=0.0) == []
        assert detections(np.full((1, 9, 8), odd, np.float32), version="v5", min_confidence=0.0) == []


@pytest.mark.parametrize("version", ["v5", "v8"])
def test_nothing_is_found_in_zeros(version):
    shape = (1, 42, 8) if version == "v5" else (1, 7, 42)
    assert detections(np.zeros(shape, np.float32), version=version) == []
    assert detections(np.zeros(shape, np.float32), version=version, min_confidence=0.0) == []


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("version", ["v5", "v8", "v11"])
@pytest.mark.parametrize("min_confidence", [0.0, 0.317, 0.7, 1.0])
def test_quantised_outputs_give_what_dequantising_all_of_them_gives(dtype, version, min_confidence):
    rng = np.random.default_rng(3)
    rows = np.hstack((rng.uniform(0, 1, (300, 2)), rng.uniform(0.05, 0.4, (300, 2)), rng.uniform(0, 1, (300, 4))))
    raw, info = quantized((v5 if version == "v5" else v8)(rows.astype(np.float32)), dtype)
    spec = YoloDecoder(version=version, iou_threshold=0.453, max_detections=1000)
    found = make_decoder(spec, LABELS, INPUT, [info])([raw], same_size(INPUT), min_confidence).detections
    as_rows = raw[0] if version == "v5" else raw[0].T
    expected = reference.yolo_boxes(spec, INPUT, info, as_rows, min_confidence)
    assert_same(found, reference.detections(expected, spec, same_size(INPUT), min_confidence))


@pytest.mark.parametrize(
    ("version", "shapes", "labels", "expected"),
    [
        ("v5", [(1, 42, 9)], LABELS, r"one output \(1, N, 5 \+ 3\)"),
        ("v8", [(1, 8, 42)], LABELS, r"one output \(1, 4 \+ 3, N\)"),
        ("v11", [(1, 4, 4)], (), r"one output \(1, 4 \+ classes, N\)"),
        ("v5", [(1, 5, 5)], (), r"one output \(1, N, 5 \+ classes\)"),
        ("v8", [(1, 7, 42), (1, 7, 42)], LABELS, "one output"),
        ("v8", [(1, 7, 6, 7)], LABELS, "one output"),
        ("v8", [(4, 7, 42)], LABELS, "one output"),
        ("v8", [], LABELS, "one output"),
    ],
)
def test_outputs_that_do_not_fit_are_refused(version, shapes, labels, expected):
    infos = [TensorInfo("Identity", shape, "float32") for shape in shapes]
    with pytest.raises(ModelError, match=f"^decoder yolo: expected {expected}.*, the model has "):
        make_decoder(YoloDecoder(version=version), labels, INPUT, infos)
