"""What every decoder promises, whatever its kind of model."""

import contextlib
import json
import sys
import typing
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pytest

from agent.decode import DECODERS, make_decoder
from agent.errors import ModelError
from agent.manifest import (
    TASK_OF,
    AnomalyDecoder,
    ClassifyDecoder,
    DecoderSpec,
    ForecastDecoder,
    RegressDecoder,
    SegmentDecoder,
    SsdAnchorsDecoder,
    SsdDecoder,
    YoloDecoder,
)
from agent.values import UNSET, Found, TensorInfo, Transform

INPUT = (32, 32)
VIEW = Transform(np.array([[10.0, 0, 0], [0, 10.0, -70]]), INPUT, (320, 180))
FIELD = {
    "detect": "detections",
    "classify": "classes",
    "regress": "values",
    "segment": "segments",
    "anomaly": "anomaly",
}


@dataclass
class Case:
    """A decoder, the shapes of its outputs, and the range of their values."""

    spec: DecoderSpec
    labels: tuple[str, ...]
    outputs: dict[str, tuple[tuple[int, ...], float, float]]

    def tensors(self, seed: int = 0, dtype: str = "float32") -> tuple[list[np.ndarray], list[TensorInfo]]:
        rng = np.random.default_rng(seed)
        arrays, infos = [], []
        for name, (shape, low, high) in self.outputs.items():
            real = rng.uniform(low, high, shape)
            if dtype == "float32":
                array, scale, zero_point = real.astype(dtype), 0.0, 0
            else:
                span = np.iinfo(dtype)
                scale = (high - low) / (span.max - span.min)
                zero_point = round(span.min - low / scale)
                array = np.clip(np.rint(real / scale) + zero_point, span.min, span.max).astype(dtype)
            arrays.append(array)
            infos.append(TensorInfo(name, shape, dtype, scale, zero_point))
        return arrays, infos


ABC = ("ant", "bee", "cat")
CASES = {
    "classify": Case(ClassifyDecoder(), ABC, {"probs": ((1, 3), 0, 1)}),
    "classify, softmax": Case(ClassifyDecoder(softmax=True), ABC, {"logits": ((1, 3), -5, 5)}),
    "ssd": Case(
        SsdDecoder(),
        ABC,
        {
            "detection_boxes": ((1, 20, 4), -0.2, 1.2),
            "detection_classes": ((1, 20), 0, 2),
            "detection_scores": ((1, 20), 0, 1),
            "num_detections": ((1,), 20, 20.5),
        },
    ),
    "ssd_anchors": Case(
        SsdAnchorsDecoder(strides=(8, 16), num_keypoints=2, nms="weighted"),
        ABC,
        {"boxes": ((1, 40, 8), -1, 1), "scores": ((1, 40, 3), -4, 4)},
    ),
    "yolo v5": Case(YoloDecoder(version="v5"), ABC, {"Identity": ((1, 63, 8), 0, 1)}),
    "yolo v8": Case(YoloDecoder(version="v8"), ABC, {"Identity": ((1, 7, 21), 0, 1)}),
    "yolo v11": Case(YoloDecoder(version="v11"), ABC, {"Identity": ((1, 7, 21), 0, 1)}),
    "segment": Case(SegmentDecoder(), ABC, {"map": ((1, 16, 16, 3), 0, 1)}),
    "segment, one map": Case(SegmentDecoder(), ("person",), {"map": ((1, 32, 32, 1), 0, 1)}),
    "regress": Case(RegressDecoder(scale=2.0), (), {"level": ((1, 4), -1, 1)}),
    "anomaly": Case(AnomalyDecoder(threshold=0.5), (), {"back": ((1, 32, 32), -1, 1), "given": ((1, 32, 32), -1, 1)}),
    "forecast": Case(ForecastDecoder(mean=(20.0, 50.0), std=(2.0, 10.0)), (), {"next": ((1, 3, 2), -1, 1)}),
}
DTYPES = ("float32", "int8", "uint8")


@pytest.fixture(params=CASES)
def case(request) -> Case:
    return CASES[request.param]


def decode(case: Case, arrays, infos, min_confidence: float = 0.3, view: Transform = VIEW) -> Found:
    return make_decoder(case.spec, case.labels, INPUT, infos)(arrays, view, min_confidence)


def findings(case: Case, found: Found) -> list:
    field = getattr(found, FIELD[TASK_OF[type(case.spec)]])
    return field if isinstance(field, list) else [field]


def test_there_is_a_decoder_for_every_section_of_the_manifest():
    assert set(DECODERS) == set(typing.get_args(DecoderSpec)) == {type(case.spec) for case in CASES.values()}


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_the_findings_of_the_task_are_set(case, dtype):
    found = decode(case, *case.tensors(dtype=dtype))
    task = FIELD[TASK_OF[type(case.spec)]]
    assert findings(case, found)
    assert [name for name in FIELD.values() if getattr(found, name) is not UNSET] == [task]


@pytest.mark.parametrize("dtype", DTYPES)
def test_findings_are_plain_python_values_that_json_can_carry(case, dtype):
    def check(value):
        assert type(value) in (dict, list, tuple, str, int, float, bool)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
            check(part)

    found = decode(case, *case.tensors(dtype=dtype))
    check(msgspec.to_builtins(found))
    json.dumps(msgspec.to_builtins(found), allow_nan=False)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(found), type=Found) == found


def test_outputs_are_not_kept_and_not_written_to(case):
    """They are views into the interpreter's memory: a view that is held makes the next invoke fail."""
    arrays, infos = case.tensors()
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    decoder = make_decoder(case.spec, case.labels, INPUT, infos)
    held = [sys.getrefcount(array) for array in arrays]
    found = decoder(arrays, VIEW, 0.3)
    assert [sys.getrefcount(array) for array in arrays] == held
    assert findings(case, found)
    for array, copy in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, copy)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_frame_is_decoded_alike_whatever_came_before(case, dtype):
    (first, infos), (second, _) = case.tensors(1, dtype), case.tensors(2, dtype)
    decoder = make_decoder(case.spec, case.labels, INPUT, infos)
    alone = decoder(first, VIEW, 0.3)
    assert decoder(second, VIEW, 0.6) != alone
    assert decoder(first, VIEW, 0.3) == alone


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_nothing_is_found_in_nan_and_inf(case, odd):
    arrays, infos = case.tensors()
    for array in arrays:
        array[...] = odd
    if case is CASES["anomaly"]:  # nothing found would mean that all is as usual
        with pytest.raises(ModelError, match="not finite"):
            decode(case, arrays, infos)
        return
    for min_confidence in (0.0, 0.5, 1.0):
        assert findings(case, decode(case, arrays, infos, min_confidence)) == []


def test_no_nan_comes_through(case):
    arrays, infos = case.tensors()
    rng = np.random.default_rng(3)
    for array in arrays:
        array[rng.random(array.shape) < 0.1] = np.nan
        array[rng.random(array.shape) < 0.1] = np.inf
    with contextlib.suppress(ModelError):
        json.dumps(msgspec.to_builtins(decode(case, arrays, infos, 0.0)), allow_nan=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_findings_come_best_first_and_over_min_confidence(case, dtype):
    arrays, infos = case.tensors(dtype=dtype)
    for min_confidence in (0.0, 0.2, 0.5, 0.8, 1.0):
        found = findings(case, decode(case, arrays, infos, min_confidence))
        ranks = [getattr(one, "confidence", getattr(one, "share", 0)) for one in found]
        if case.spec.__struct_config__.tag not in ("regress", "forecast"):
            assert ranks == sorted(ranks, reverse=True)
        if hasattr(next(iter(found), None), "confidence"):
            assert min(ranks) >= min_confidence - 1e-4
            assert max(ranks) <= 1.0


@pytest.mark.parametrize("dtype", DTYPES)
def test_boxes_lie_in_the_frame_and_have_an_area(case, dtype):
    for one in findings(case, decode(case, *case.tensors(dtype=dtype), 0.0)):
        if hasattr(one, "xyxy"):
            left, top, right, bottom = one.xyxy
            assert 0 <= left < right <= 320
            assert 0 <= top < bottom <= 180


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_are_those_of_the_classes_or_their_numbers(case, dtype):
    arrays, infos = case.tensors(dtype=dtype)
    for labels in (case.labels, ()):
        found = make_decoder(case.spec, labels, INPUT, infos)(arrays, VIEW, 0.0)
        for one in findings(case, found):
            if hasattr(one, "label"):
                assert one.label == (labels[one.class_id] if labels else str(one.class_id))


WRONG = {
    "none": lambda infos: [],
    "a batch of two": lambda infos: [replace(info, shape=(2, *info.shape[1:])) for info in infos],
    "no numbers": lambda infos: [replace(info, dtype="bool") for info in infos],
    "no shape": lambda infos: [replace(info, shape=()) for info in infos],
    "nothing in it": lambda infos: [replace(info, shape=(1, *[0] * len(info.shape))) for info in infos],
    "a scale that is no number": lambda infos: [replace(info, dtype="int8", scale=float("nan")) for info in infos],
    "a scale under 0": lambda infos: [replace(info, dtype="int8", scale=-1.0) for info in infos],
    "endless names": lambda infos: [replace(info, name="\n" * 10_000, shape=(3, *info.shape[1:])) for info in infos],
    "countless outputs": lambda infos: [TensorInfo("x", (7, 7), "float32")] * 1000,
}


@pytest.mark.parametrize("wrong", WRONG)
def test_outputs_that_do_not_fit_are_refused_in_one_line(case, wrong):
    _, infos = case.tensors()
    with pytest.raises(ModelError) as caught:
        make_decoder(case.spec, case.labels, INPUT, WRONG[wrong](infos))
    text = str(caught.value)
    assert text.startswith(f"decoder {case.spec.__struct_config__.tag}: expected ")
    assert ", the model has " in text
    assert text.isprintable()
    assert len(text) < 1000
    assert caught.value.exit_code == 3


def test_more_labels_than_classes_are_refused_where_classes_can_be_counted(case):
    _, infos = case.tensors()
    if case.labels and case.spec.__struct_config__.tag != "ssd":
        with pytest.raises(ModelError, match="expected"):
            make_decoder(case.spec, (*case.labels, "one too many"), INPUT, infos)


def test_the_scale_of_a_float_output_is_left_over_and_does_not_count(case):
    arrays, infos = case.tensors()
    odd = [replace(info, scale=0.5, zero_point=3) for info in infos]
    assert decode(case, arrays, odd) == decode(case, arrays, infos)
