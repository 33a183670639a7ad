"""What real models say of real photos, against the naive decoders.

YOLO has no model in a package registry. Its tensors are made from what the real SSD sees: each of its raw boxes is
written into the layouts of v5, v8 and v11, with noise around it, and must come back the same.
"""

from functools import cache

import numpy as np
import pytest

from agent.decode import make_decoder
from agent.decode.boxes import iou
from agent.manifest import YoloDecoder
from tests.unit.decode import reference
from tests.unit.decode.helpers import RunningModel, assert_same, info_of, quantized, turned

pytestmark = pytest.mark.runtime
PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png")


@cache
def model(name):
    return RunningModel(name)


@cache
def seen(name, photo):
    return model(name).run(photo)


def decoder(name):
    running = model(name)
    return make_decoder(running.manifest.decoder, running.labels, running.input_wh, running.infos)


@pytest.mark.parametrize(
    ("name", "photo", "label", "confidence", "box"),
    [
        ("face", "astronaut.png", "face", 0.92, (180, 80, 272, 174)),
        ("face_full", "astronaut.png", "face", 0.94, (172, 69, 277, 174)),
        ("ssd_oidv4", "astronaut.png", "Person", 0.58, (16, 15, 364, 510)),
        ("ssd_oidv4", "chelsea.png", "Cat", 0.88, (7, 0, 413, 300)),
        ("ssd_oidv4", "coffee.png", "Coffee cup", 0.53, (178, 21, 414, 297)),
    ],
)
def test_what_is_on_the_photo_is_found_where_it_is(name, photo, label, confidence, box):
    outputs, transform = seen(name, photo)
    (detection,) = decoder(name)(outputs, transform, 0.4).detections
    assert detection.label == label
    assert detection.confidence == pytest.approx(confidence, abs=0.05)
    assert iou(detection.xyxy, box) > 0.85


def test_the_keypoints_of_a_face_are_in_it_and_in_order():
    """Right eye, left eye, nose, mouth, right ear, left ear; right is the person's."""
    outputs, transform = seen("face", "astronaut.png")
    (face,) = decoder("face")(outputs, transform, 0.5).detections
    right_eye, left_eye, nose, mouth, right_ear, left_ear = face.keypoints
    assert right_ear[0] < right_eye[0] < nose[0] < left_eye[0] < left_ear[0]
    assert max(right_eye[1], left_eye[1]) < nose[1] < mouth[1]


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("name", ["face", "face_full", "ssd_oidv4"])
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8"])
def test_raw_boxes_of_real_models_decode_as_the_definition_says(name, photo, dtype):
    """The quantised outputs are the real ones, quantised over their range as a converter would."""
    outputs, transform = seen(name, photo)
    infos = model(name).infos
    if dtype != "float32":
        named = zip(outputs, infos, strict=True)
        outputs, infos = zip(*(quantized(array, dtype, info.name) for array, info in named), strict=True)
    spec, input_wh = model(name).manifest.decoder, model(name).input_wh
    boxes, scores = zip(infos, outputs, strict=True)
    candidates = reference.ssd_anchors_boxes(spec, input_wh, boxes, scores)
    decode = make_decoder(spec, model(name).labels, input_wh, infos)
    for view in (transform, turned(transform, 3), turned(transform, mirrored=True)):
        for min_confidence in (0.01, 0.08, 0.317, 0.5):
            found = decode(outputs, view, min_confidence).detections
            assert_same(found, reference.detections(candidates, spec, view, min_confidence))
        assert decode(outputs, view, 0.01).detections or photo != "astronaut.png"


def test_a_turned_and_mirrored_view_gives_the_turned_and_mirrored_box():
    """The picture is 512 x 512: what the model saw of it, it could have seen of a turned frame."""
    outputs, transform = seen("face", "astronaut.png")
    (face,) = decoder("face")(outputs, transform, 0.5).detections
    (mirrored,) = decoder("face")(outputs, turned(transform, mirrored=True), 0.5).detections
    left, top, right, bottom = face.xyxy
    assert mirrored.xyxy == pytest.approx((512 - right, top, 512 - left, bottom), abs=0.011)
    (quarter,) = decoder("face")(outputs, turned(transform, 1), 0.5).detections
    assert quarter.xyxy == pytest.approx((top, 512 - right, bottom, 512 - left), abs=0.011)


# YOLO, from what the SSD saw


def yolo_rows(photo, rng):
    """The SSD's boxes above 0.05 as rows x, y, w, h, objectness, 23 classes, among 500 rows of noise; and the boxes."""
    ssd = model("ssd_oidv4")
    outputs, _ = seen("ssd_oidv4", photo)
    boxes, scores = zip(ssd.infos, outputs, strict=True)
    real = [
        box
        for box in reference.ssd_anchors_boxes(ssd.manifest.decoder, ssd.input_wh, boxes, scores)
        if box.confidence >= 0.05
    ]
    noise = rng.uniform(0, 0.04, (500 + len(real), 28)).astype(np.float32)
    noise[:, :4] = rng.uniform(0.1, 0.9, (len(noise), 4))
    for place, box in zip(rng.permutation(len(noise))[: len(real)], real, strict=True):
        x0, y0, x1, y1 = (value / 300 for value in box.xyxy)
        noise[place, :4] = (x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0
        noise[place, 4] = np.sqrt(box.confidence)
        noise[place, 4 + box.class_id] = np.sqrt(box.confidence)
    return noise, real


def in_layout(rows, version):
    """As the version's own export: v5 as they are; v8 and v11 without objectness, the fields first."""
    if version == "v5":
        return rows[None]
    without = rows.copy()
    without[:, 5:] = np.where(rows[:, 5:] > 0.1, rows[:, 5:] ** 2, rows[:, 5:])
    return np.ascontiguousarray(np.delete(without, 4, axis=1).T)[None]


@pytest.mark.parametrize("photo", PHOTOS)
@pytest.mark.parametrize("version", ["v5", "v8", "v11"])
@pytest.mark.parametrize("nms", ["hard", "weighted"])
@pytest.mark.parametrize("transposed", [False, True])
def test_real_boxes_come_back_from_yolos_layouts(photo, version, nms, transposed):
    ssd = model("ssd_oidv4")
    rows, real = yolo_rows(photo, np.random.default_rng(2))
    raw = in_layout(rows, version)
    raw = raw.transpose(0, 2, 1) if transposed else raw
    spec = YoloDecoder(version=version, iou_threshold=0.453, nms=nms)
    _, transform = seen("ssd_oidv4", photo)
    labels = ssd.labels[1:]
    found = make_decoder(spec, labels, ssd.input_wh, [info_of(raw)])([raw], transform, 0.06).detections
    for box in real:
        box.class_id -= 1
    expected = reference.detections(real, spec, transform, 0.06)
    assert len(expected) > 1
    by_confidence = sorted(found, key=lambda d: (-d.confidence, d.xyxy))
    assert_same(by_confidence, sorted(expected, key=lambda b: (-round(b.confidence, 4), b.xyxy)), px=0.02)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("version", ["v5", "v8"])
def test_real_boxes_come_back_from_quantised_yolos(dtype, version):
    """One scale for boxes and classes, as Ultralytics' int8 exports have: a step is a pixel and more."""
    ssd = model("ssd_oidv4")
    rows, _ = yolo_rows("chelsea.png", np.random.default_rng(2))
    raw, info = quantized(in_layout(rows, version), dtype)
    _, transform = seen("ssd_oidv4", "chelsea.png")
    decode = make_decoder(YoloDecoder(version=version), ssd.labels[1:], ssd.input_wh, [info])
    (cat,) = decode([raw], transform, 0.5).detections
    assert (cat.label, cat.confidence) == ("Cat", pytest.approx(0.88, abs=0.02))
    assert iou(cat.xyxy, (7, 0, 413, 300)) > 0.95
