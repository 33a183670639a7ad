"""Which entries of a raw score tensor are worth decoding.

The threshold is taken into the tensor's own domain (logits, quantised integers), so that only the few entries that pass
are ever dequantised: a twentieth of the time of decoding everything.
"""

import math

import numpy as np
from numpy.typing import NDArray

from agent.values import Tensor, TensorInfo

MAX_CANDIDATES = 1000
"""Entries that go on to NMS, at most: the best. A bound on time when a model says yes to everything."""

_LOGIT_OF_ONE = 36.7
"""Up from here sigmoid() is 1 in float64."""


quietly = np.errstate(over="ignore", invalid="ignore")
"""For a decoder's call: NaN, inf and what overflows are dropped in its end, without numpy's warnings on the way."""

_FLOAT_MAX = {name: float(np.finfo(name).max) for name in ("float16", "float32", "float64")}


def single(confidence: float) -> float:
    """A threshold as float32, which outputs are in: 0.7 of the model is then not under a threshold of 0.7."""
    return float(np.float32(confidence))


def logit(confidence: float) -> float:
    """Inverse of `sigmoid`; -inf for 0 and under."""
    if confidence <= 0.0:
        return -math.inf
    if confidence >= 1.0:
        return _LOGIT_OF_ONE
    return min(math.log(confidence / (1.0 - confidence)), _LOGIT_OF_ONE)


def sigmoid(value: float) -> float:
    """1 / (1 + e^-value), for any finite value."""
    return 1.0 / (1.0 + math.exp(-value)) if value > -700.0 else 0.0


def raw_floor(info: TensorInfo, real: float) -> float:
    """The smallest raw value of a tensor that stands for `real` or more; one over the dtype's range if none does.

    Args:
        info: the tensor; its scale is 0 if it is not quantised.
        real: a number, or -inf for "any finite value".
    """
    if info.dtype in _FLOAT_MAX:
        return max(-_FLOAT_MAX[info.dtype], min(real, _FLOAT_MAX[info.dtype]))
    low, high = int(np.iinfo(info.dtype).min), int(np.iinfo(info.dtype).max)
    guess = real / (info.scale or 1.0) + info.zero_point
    if guess <= low or guess > high + 1:
        return low if guess <= low else high + 1
    raw = math.ceil(guess)
    while raw > low and _real(info, raw - 1) >= real:  # the division rounds: what dequantising says counts
        raw -= 1
    while raw <= high and _real(info, raw) < real:
        raw += 1
    return raw


def _real(info: TensorInfo, raw: int) -> float:
    return float(info.dequantize(np.array(raw)))


def class_peaks(planes: Tensor) -> tuple[Tensor, Tensor]:
    """The best class of every entry, as (planes, peaks); in the planes given back NaN and inf are -inf.

    Args:
        planes: classes x entries, raw. Classes first, because numpy takes a maximum over short rows 4 times slower.
    """
    if len(planes) == 1:
        return planes, planes[0]
    planes = np.ascontiguousarray(planes)
    peaks = planes.max(axis=0)
    if peaks.dtype.kind == "f" and not (peaks < np.inf).all():  # one NaN or inf hides the rest of its entry
        planes = np.where(np.isfinite(planes), planes, -np.inf).astype(planes.dtype, copy=False)
        peaks = planes.max(axis=0)
    return planes, peaks


def strongest(values: Tensor, at_least: float) -> NDArray[np.intp]:
    """Where `values` (one dimension, raw) are finite and reach `at_least`; of many, the best MAX_CANDIDATES."""
    reach = values >= at_least
    if values.dtype.kind == "f":
        reach &= values < np.inf
    found = reach.nonzero()[0]
    if found.size > MAX_CANDIDATES:
        order = np.argsort(-values[found].astype(np.float64), kind="stable")
        found = found[order[:MAX_CANDIDATES]]
    return found
