"""TensorFlow's detection post-process: four outputs."""

import itertools

import numpy as np
import pytest

from agent.decode import make_decoder
from agent.errors import ModelError
from agent.manifest import SsdDecoder
from agent.values import TensorInfo
from tests.unit.decode.helpers import info_of, letterbox, same_size

BOXES = np.array([[[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 0.3, 0.3], [0.4, 0.4, 0.9, 0.9]]], np.float32)
CLASSES = np.array([[1, 0, 2]], np.float32)
SCORES = np.array([[0.9, 0.6, 0.3]], np.float32)
COUNT = np.array([3], np.float32)
OUTPUTS = (BOXES, CLASSES, SCORES, COUNT)
LABELS = ("ant", "bee", "cat")
TF1 = tuple(f"TFLite_Detection_PostProcess{suffix}" for suffix in ("", ":1", ":2", ":3"))
TF2 = tuple(f"StatefulPartitionedCall:{number}" for number in (3, 2, 1, 0))
METADATA = ("location", "category", "score", "number of detections")
SAVED_MODEL = ("detection_boxes", "detection_classes", "detection_scores", "num_detections")
PLAIN = ("a", "b", "c", "d")


def decoder(outputs=OUTPUTS, names=TF1, *, labels=LABELS, **options):
    infos = [info_of(array, name) for array, name in zip(outputs, names, strict=True)]
    return make_decoder(SsdDecoder(**options), labels, (100, 200), infos)


def detections(outputs=OUTPUTS, names=TF1, *, min_confidence=0.0, **options):
    found = decoder(outputs, names, **options)(outputs, same_size((100, 200)), min_confidence)
    return [(d.label, d.class_id, d.confidence, d.xyxy) for d in found.detections]


EXPECTED = [
    ("bee", 1, 0.9, (20, 20, 60, 100)),
    ("ant", 0, 0.6, (0, 0, 30, 60)),
    ("cat", 2, 0.3, (40, 80, 90, 180)),
]


def test_boxes_are_top_left_bottom_right_in_shares_of_the_input():
    assert detections() == EXPECTED


def test_they_are_mapped_to_the_frame():
    """A 200 x 100 frame lies in the 100 x 200 input as 100 x 50, 75 pixels from the top: twice as large."""
    found = decoder()(OUTPUTS, letterbox((200, 100), (100, 200)), 0.5).detections
    assert [d.xyxy for d in found] == [(40, 0, 120, 50)]


def test_min_confidence_and_count_limit_them():
    assert detections(min_confidence=0.6) == EXPECTED[:2]
    assert detections((BOXES, CLASSES, SCORES, np.array([1], np.float32))) == EXPECTED[:1]


def test_a_confidence_of_exactly_the_threshold_passes_in_spite_of_float32():
    """float32 has 0.7 as 0.69999999: the user who writes 0.7 means that too."""
    scores = np.array([[0.7, 0.0, 0.0]], np.float32)
    assert [d[2] for d in detections((BOXES, CLASSES, scores, COUNT), min_confidence=0.7)] == [0.7]


@pytest.mark.parametrize("count", [0, -1, np.nan, -np.inf, np.inf])
def test_a_count_that_is_none_gives_nothing(count):
    assert detections((BOXES, CLASSES, SCORES, np.array([count], np.float32))) == []


def test_a_count_over_what_there_is_gives_what_there_is():
    assert detections((BOXES, CLASSES, SCORES, np.array([1e9], np.float32))) == EXPECTED


@pytest.mark.parametrize("names", [TF1, TF2, METADATA, SAVED_MODEL])
@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_outputs_are_found_by_name_in_any_order(names, order):
    assert detections([OUTPUTS[i] for i in order], [names[i] for i in order]) == EXPECTED


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1)])
def test_without_names_the_two_usual_orders_are_known(order):
    """TensorFlow 1: boxes, classes, scores, count. TensorFlow 2: scores, boxes, count, classes."""
    assert detections([OUTPUTS[i] for i in order], PLAIN) == EXPECTED


def test_without_names_another_order_is_refused():
    with pytest.raises(ModelError, match="with names or an order that tell classes from scores"):
        decoder([OUTPUTS[i] for i in (3, 2, 1, 0)], PLAIN)


@pytest.mark.parametrize("names", [TF1, TF2, METADATA, SAVED_MODEL])
@pytest.mark.parametrize("count_shape", [(1,), (1, 1)])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0)])
def test_room_for_one_box_only(names, count_shape, order):
    """Classes, scores and count then all have one value."""
    outputs = [BOXES[:, :1], CLASSES[:, :1], SCORES[:, :1], np.ones(count_shape, np.float32)]
    assert detections([outputs[i] for i in order], [names[i] for i in order]) == EXPECTED[:1]


def test_class_ids_without_a_label_are_called_by_their_number():
    assert [d[0] for d in detections(labels=("ant", "bee"))] == ["bee", "ant", "2"]
    assert [d[0] for d in detections(labels=())] == ["1", "0", "2"]


def test_odd_classes_scores_and_boxes_are_dropped():
    classes = np.array([[np.nan, 0, -1]], np.float32)
    assert [d[2] for d in detections((BOXES, classes, SCORES, COUNT))] == [0.6]
    scores = np.array([[np.nan, np.inf, 0.3]], np.float32)
    assert [d[2] for d in detections((BOXES, CLASSES, scores, COUNT))] == [0.3]
    boxes = BOXES.copy()
    boxes[0, 0, 0], boxes[0, 1, 3] = np.nan, np.inf
    assert [d[2] for d in detections((boxes, CLASSES, SCORES, COUNT))] == [0.3]


def test_the_manifests_nms_comes_on_top_of_the_models():
    boxes = np.array([[[0, 0, 0.5, 0.5], [0, 0, 0.5, 0.45], [0, 0, 0.5, 0.45]]], np.float32)
    outputs = (boxes, np.array([[0, 0, 1]], np.float32), SCORES, COUNT)
    assert [d[1:3] for d in detections(outputs)] == [(0, 0.9), (1, 0.3)]
    assert len(detections(outputs, iou_threshold=0.95)) == 3
    assert len(detections(outputs, max_detections=1)) == 1


def test_quantised_and_integer_outputs():
    outputs = (
        np.rint(BOXES * 250).astype(np.uint8),
        CLASSES.astype(np.int32),
        (np.rint(SCORES * 200) - 128).astype(np.int8),
        COUNT.astype(np.int32),
    )
    infos = [info_of(array, name) for array, name in zip(outputs, TF1, strict=True)]
    infos[0] = TensorInfo(TF1[0], BOXES.shape, "uint8", 1 / 250, 0)
    infos[2] = TensorInfo(TF1[2], SCORES.shape, "int8", 1 / 200, -128)
    found = make_decoder(SsdDecoder(), LABELS, (100, 200), infos)(outputs, same_size((100, 200)), 0.29)
    assert [(d.label, d.class_id, d.confidence, d.xyxy) for d in found.detections] == EXPECTED


@pytest.mark.parametrize(
    "outputs",
    [
        (BOXES, CLASSES, SCORES),
        (BOXES, BOXES, CLASSES, SCORES, COUNT),
        (BOXES, CLASSES, SCORES[:, :2], COUNT),
        (BOXES[..., :3], CLASSES, SCORES, COUNT),
        (BOXES, CLASSES, SCORES, np.zeros((1, 2), np.float32)),
        (BOXES, CLASSES, SCORES.astype(bool), COUNT),
        (),
    ],
)
def test_outputs_that_do_not_fit_are_refused(outputs):
    names = [f"StatefulPartitionedCall:{place}" for place in range(len(outputs))]
    with pytest.raises(
        ModelError, match=r"^decoder ssd: expected boxes \(1, N, 4\), classes \(1, N\), .* the model has"
    ):
        decoder(outputs, names)
