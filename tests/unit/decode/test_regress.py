"""Numbers."""

import numpy as np
import pytest

from agent.decode import make_decoder
from agent.errors import ModelError
from agent.manifest import RegressDecoder
from agent.values import TensorInfo
from tests.unit.decode import reference
from tests.unit.decode.helpers import info_of, same_size

VIEW = same_size((8, 8))


def values(raw, info=None, **options):
    decode = make_decoder(RegressDecoder(**options), (), (8, 8), [info or info_of(raw)])
    return decode([raw], VIEW, 0.9).values


def test_values_come_in_the_order_of_the_first_output():
    assert values(np.array([[3.0, 1.0, 2.0]], np.float32)) == [3.0, 1.0, 2.0]
    assert values(np.array([[[[0.5]]]], np.float32)) == [0.5]


def test_scale_and_offset_bring_them_to_their_unit():
    assert values(np.array([[0.5, -1.0]], np.float32), scale=100.0, offset=-20.0) == [30.0, -120.0]


def test_they_have_the_digits_of_a_float32():
    assert values(np.array([[0.1, 1 / 3, 123456.789, 1e-9]], np.float32)) == [0.1, 0.3333333, 123456.8, 1e-9]


def test_quantised_values_are_dequantised():
    raw = np.array([[-128, 0, 127]], np.int8)
    info = TensorInfo("level", raw.shape, "int8", 0.5, -28)
    assert values(raw, info) == [-50.0, 14.0, 77.5] == reference.numbers(RegressDecoder(), info, raw)


def test_one_odd_number_spoils_all_because_places_have_a_meaning():
    for odd in (np.nan, np.inf, -np.inf):
        assert values(np.array([[1.0, odd, 3.0]], np.float32)) == []
    assert values(np.array([[3e38]], np.float32), scale=1e300) == []


def test_further_outputs_do_not_matter():
    first, second = np.array([[1.5]], np.float32), np.zeros((1, 9), np.float32)
    decode = make_decoder(RegressDecoder(), (), (8, 8), [info_of(first), info_of(second)])
    assert decode([first, second], VIEW, 0.0).values == [1.5]


@pytest.mark.parametrize("info", [None, TensorInfo("a", (2, 3), "float32"), TensorInfo("a", (1, 3), "bool")])
def test_a_first_output_without_numbers_is_refused(info):
    with pytest.raises(ModelError, match=r"^decoder regress: expected numbers with a batch of 1 as first output"):
        make_decoder(RegressDecoder(), (), (8, 8), [info] if info else [])
