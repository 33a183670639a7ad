"""Against the kernel in the runtime: TensorFlow's detection post-process, appended to the real SSD.

See tests/sim/postprocess.py. Only on ai-edge-litert, whose package has the schema that the builder needs.
"""

from functools import cache

import numpy as np
import pytest
from msgspec.structs import replace

from agent.decode import make_decoder
from agent.decode.ssd_anchors import make_anchors
from agent.manifest import SsdDecoder
from tests.sim.bundles import model_path
from tests.unit.decode import reference
from tests.unit.decode.helpers import RunningModel, assert_same

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png")


@cache
def raw_model():
    return RunningModel("ssd_oidv4")


@cache
def with_postprocess(iou_threshold, order=(0, 1, 2, 3)):
    from tests.sim.postprocess import add_postprocess

    anchors = make_anchors(raw_model().manifest.decoder, raw_model().input_wh)[:, [1, 0, 3, 2]].astype(np.float32)
    model = add_postprocess(
        model_path("ssd_oidv4").read_bytes(),
        anchors,
        iou_threshold=iou_threshold,
        score_threshold=0.1,
        max_detections=100,
        output_order=order,
    )
    return RunningModel("ssd_oidv4", model)


def decoder(model, **options):
    """For a model with a post-process: the kernel counts classes without the background."""
    return make_decoder(SsdDecoder(**options), model.labels[1:], model.input_wh, model.infos)


@pytest.mark.parametrize("photo", PHOTOS)
def test_our_decoding_of_raw_boxes_is_the_kernels(photo):
    """Without suppression on either side: every box, its class and its confidence, for all above 0.1."""
    kernel = with_postprocess(1.0)
    outputs, transform = kernel.run(photo)
    expected = decoder(kernel, iou_threshold=1.0)(outputs, transform, 0.1).detections
    raw, _ = raw_model().run(photo)
    spec = replace(raw_model().manifest.decoder, iou_threshold=1.0)
    decode = make_decoder(spec, raw_model().labels, raw_model().input_wh, raw_model().infos)
    found = decode(raw, transform, 0.1).detections
    assert len(found) > 10
    assert [d.label for d in found] == [d.label for d in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.class_id == theirs.class_id + 1
        assert ours.confidence == pytest.approx(theirs.confidence, abs=1.01e-4)
        assert ours.xyxy == pytest.approx(theirs.xyxy, abs=0.011)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (2, 0, 3, 1), (3, 2, 1, 0)])
@pytest.mark.parametrize("photo", PHOTOS)
def test_a_model_with_a_post_process_finds_what_the_same_model_without_finds(photo, order):
    kernel = with_postprocess(0.5, order)
    outputs, transform = kernel.run(photo)
    (theirs,) = decoder(kernel, iou_threshold=0.5)(outputs, transform, 0.4).detections
    model = raw_model()
    decode = make_decoder(model.manifest.decoder, model.labels, model.input_wh, model.infos)
    (ours,) = decode(model.run(photo)[0], transform, 0.4).detections
    assert (theirs.label, theirs.confidence) == (ours.label, pytest.approx(ours.confidence, abs=1.01e-4))
    assert theirs.xyxy == pytest.approx(ours.xyxy, abs=0.011)


@pytest.mark.parametrize("photo", PHOTOS)
def test_the_kernels_outputs_decode_as_the_definition_says(photo):
    kernel = with_postprocess(0.5)
    outputs, transform = kernel.run(photo)
    spec = SsdDecoder(iou_threshold=0.317)
    candidates = reference.ssd_boxes(kernel.input_wh, *zip(kernel.infos, outputs, strict=True))
    for min_confidence in (0.05, 0.117, 0.3):
        found = decoder(kernel, iou_threshold=0.317)(outputs, transform, min_confidence).detections
        assert_same(found, reference.detections(candidates, spec, transform, min_confidence))
