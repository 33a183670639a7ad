"""A real segmentation of real photos. Only on ai-edge-litert: tflite-runtime lacks an operator of this model."""

from functools import cache

import pytest

from agent.decode import make_decoder
from tests.unit.decode import reference
from tests.unit.decode.helpers import RunningModel, letterbox, quantized, same_size


@cache
def selfie():
    return RunningModel("selfie")


@cache
def seen(photo):
    (raw,), transform = selfie().run(photo)
    return raw, transform


def segments(raw, transform, info=None):
    decode = make_decoder(selfie().manifest.decoder, selfie().labels, (256, 256), [info or selfie().infos[0]])
    return decode([raw], transform, 0.5).segments


@pytest.mark.parametrize(("photo", "dtype"), [("chelsea.png", "float32"), ("coffee.png", "uint8")])
def test_a_real_segmentation_counts_as_the_definition_says(photo, dtype):
    raw, transform = seen(photo)
    raw, info = (raw, selfie().infos[0]) if dtype == "float32" else quantized(raw, dtype)
    found = segments(raw, transform, info)
    expected = reference.segments(selfie().manifest.decoder, info, raw, (256, 256), transform)
    assert [s.class_id for s in found] == list(expected)
    for segment in found:
        share, box = expected[segment.class_id]
        assert segment.share == pytest.approx(share, abs=1e-4)
        assert segment.xyxy == pytest.approx(box, abs=0.011)


def test_the_astronaut_covers_half_of_the_picture():
    (person,) = segments(*seen("astronaut.png"))
    assert person.label == "person"
    assert 0.4 < person.share < 0.7


def test_a_letterboxed_border_is_left_out_of_a_real_map():
    """As if the frame had been twice as wide, half of the input is border now. Only the middle of the map counts."""
    raw, _ = seen("astronaut.png")
    (person,) = segments(raw, letterbox((1024, 512), (256, 256)))
    assert person.share == pytest.approx((raw[0, 64:192] >= 0.5).mean(), abs=1e-4)
    (whole,) = segments(raw, same_size((256, 256)))
    assert whole.share == pytest.approx((raw >= 0.5).mean(), abs=1e-4)
