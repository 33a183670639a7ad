"""One confidence for each class."""

import numpy as np
import pytest

from agent.decode import make_decoder
from agent.errors import ModelError
from agent.manifest import ClassifyDecoder
from tests.unit.decode import reference
from tests.unit.decode.helpers import info_of, quantized, same_size

VIEW = same_size((8, 8))
LABELS = ("ant", "bee", "cat", "dog")


def classes(raw, info=None, *, labels=(), min_confidence=0.0, **options):
    decode = make_decoder(ClassifyDecoder(**options), labels, (8, 8), [info or info_of(raw)])
    found = decode([raw], VIEW, min_confidence)
    return [(c.label, c.class_id, c.confidence) for c in found.classes]


def test_best_first_with_labels():
    raw = np.array([[0.1, 0.6, 0.05, 0.25]], np.float32)
    assert classes(raw, labels=LABELS, top_k=3) == [("bee", 1, 0.6), ("dog", 3, 0.25), ("ant", 0, 0.1)]


def test_equal_confidences_keep_the_order_of_classes():
    assert [c[1] for c in classes(np.array([[0.25, 0.5, 0.25, 0.5]], np.float32))] == [1, 3, 0, 2]


def test_without_labels_classes_are_called_by_their_number():
    assert classes(np.array([[0.4, 0.6]], np.float32)) == [("1", 1, 0.6), ("0", 0, 0.4)]


def test_what_is_under_min_confidence_is_left_out():
    raw = np.array([[0.7, 0.2, 0.1]], np.float32)
    assert classes(raw, min_confidence=0.2) == [("0", 0, 0.7), ("1", 1, 0.2)]
    assert classes(raw, min_confidence=0.9) == []


def test_a_confidence_of_exactly_the_threshold_passes_in_spite_of_float32():
    """float32 has 0.7 as 0.69999999: the user who writes 0.7 means that too."""
    assert classes(np.array([[0.7]], np.float32), min_confidence=0.7) == [("0", 0, 0.7)]


def test_softmax_makes_confidences_of_logits():
    raw = np.array([[1.0, 3.0, 2.0]], np.float32)
    assert classes(raw, softmax=True) == [("1", 1, 0.6652), ("2", 2, 0.2447), ("0", 0, 0.09)]


def test_softmax_does_not_overflow():
    assert classes(np.array([[3e38, -3e38, 0]], np.float32), softmax=True, top_k=1) == [("0", 0, 1.0)]


def test_further_dimensions_of_one_do_not_matter():
    raw = np.zeros((1, 1, 1, 4), np.float32)
    raw[..., 2] = 1
    assert classes(raw, labels=LABELS, top_k=1) == [("cat", 2, 1.0)]


@pytest.mark.parametrize("softmax", [False, True])
def test_nan_and_inf_are_dropped(softmax):
    raw = np.array([[np.nan, 0.5, np.inf, -np.inf, 0.25]], np.float32)
    assert [c[1] for c in classes(raw, softmax=softmax)] == [1, 4]
    assert classes(np.full((1, 3), np.nan, np.float32), softmax=softmax) == []


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("softmax", [False, True])
def test_quantised_outputs_give_what_dequantising_all_of_them_gives(dtype, softmax):
    rng = np.random.default_rng(7)
    raw, info = quantized(rng.dirichlet(np.full(50, 0.1))[None] * (9 if softmax else 1), dtype)
    for min_confidence in (0.0, 0.01, 0.1, 0.5, 1.0):
        found = classes(raw, info, softmax=softmax, top_k=20, min_confidence=min_confidence)
        expected = reference.classes(info, raw, softmax=softmax, top_k=20, min_confidence=min_confidence)
        assert [(c[1], c[2]) for c in found] == [(class_id, round(value, 4)) for class_id, value in expected]


def test_the_one_output_that_fits_the_labels_is_found():
    embedding, confidences = np.zeros((1, 128), np.float32), np.array([[0.1, 0.2, 0.3, 0.4]], np.float32)
    decode = make_decoder(ClassifyDecoder(top_k=1), LABELS, (8, 8), [info_of(embedding), info_of(confidences)])
    assert decode([embedding, confidences], VIEW, 0.0).classes[0].label == "dog"


@pytest.mark.parametrize(
    ("shapes", "labels"),
    [
        ([(1, 5)], LABELS),
        ([(1, 3)], LABELS),
        ([(1, 2, 2)], LABELS),
        ([(2, 4)], LABELS),
        ([(1, 4), (1, 4)], LABELS),
        ([(1, 4), (1, 9)], ()),
        ([(1, 2, 3)], ()),
        ([(1, 0)], ()),
        ([], ()),
    ],
)
def test_outputs_that_do_not_fit_are_refused(shapes, labels):
    infos = [info_of(np.zeros(shape, np.float32), "probs") for shape in shapes]
    with pytest.raises(ModelError, match=r"^decoder classify: expected one output of"):
        make_decoder(ClassifyDecoder(), labels, (8, 8), infos)


def test_the_error_says_what_was_expected_and_what_the_model_has():
    with pytest.raises(ModelError) as caught:
        make_decoder(ClassifyDecoder(), LABELS, (8, 8), [info_of(np.zeros((1, 1001), np.uint8), "a\nb")])
    assert str(caught.value) == (
        "decoder classify: expected one output of 4 values, one for each label, the model has a?b uint8 (1, 1001)"
    )
