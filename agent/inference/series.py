"""Windows of samples into a model's input tensor: sensor values normalised by channel, or features of sound."""

import math

import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.inference.front_end import make_front_end
from agent.manifest import AudioInput, InputSpec, ModelInputSpec, SeriesInput
from agent.values import Image, Samples, Tensor, TensorInfo, Transform, Window

_SOUND_GAP_S = 0.0
_DEFAULT_STRIDES = 4
"""Windows of sound overlap so many times: a word must lie whole in one of them."""


def window_of(spec: ModelInputSpec) -> Window | None:
    """The windows that a manifest asks for; None: it asks for pictures."""
    if isinstance(spec, InputSpec):
        return None
    if isinstance(spec, SeriesInput):
        return Window(
            channels=spec.channels,
            samples=spec.samples,
            stride=spec.stride or spec.samples,
            rate_hz=spec.rate_hz,
            max_gap_s=spec.max_gap_s,
            keeps_missing=spec.missing == "mean",
        )
    samples = round(spec.window_s * spec.rate_hz)
    stride = round((spec.stride_s or spec.window_s / _DEFAULT_STRIDES) * spec.rate_hz)
    return Window(
        channels=(),
        samples=samples,
        stride=max(1, stride),
        rate_hz=float(spec.rate_hz),
        max_gap_s=_SOUND_GAP_S,
        keeps_missing=False,
    )


class SeriesPreprocess:
    """Windows of sensor values. A value that is missing becomes its channel's mean, which is 0 after it."""

    def __init__(self, spec: SeriesInput, tensor: TensorInfo) -> None:
        """Raises ModelError: the tensor has another size than a window, or mean or std are no numbers in float32."""
        self._shape = (spec.samples, len(spec.channels))
        _check_size(tensor, self._shape, "samples x channels")
        self._mean, self._std = _numbers("mean", spec.mean), _numbers("std", spec.std)
        self._tensor = tensor
        self._transform = _identity(self._shape)

    def __call__(self, data: Image | Samples, view: Tensor) -> Transform:
        """Write a window (samples x channels) into the model's input. Raises ModelError: it is none of this size."""
        _check_window(data, self._shape)
        normal = np.nan_to_num((data - self._mean) / self._std, nan=0.0)
        view[...] = self._tensor.quantize(normal).reshape(view.shape)
        return self._transform


class AudioPreprocess:
    """Windows of sound, through a front end."""

    def __init__(self, spec: AudioInput, tensor: TensorInfo) -> None:
        """
        Raises:
            ModelError: the tensor has another size than the features of a window, a package is missing, or mean or std
                are no numbers in float32.
        """
        window = window_of(spec)
        assert window is not None  # noqa: S101 - it is sound
        self._window_shape = (window.samples, 1)
        self._front_end = make_front_end(spec.front_end, spec.rate_hz, window.samples)
        _check_size(tensor, self._front_end.shape, "features x bands")
        self._mean, self._std = _numbers("mean", (spec.mean,)), _numbers("std", (spec.std,))
        self._tensor = tensor
        self._transform = _identity(self._front_end.shape)

    def __call__(self, data: Image | Samples, view: Tensor) -> Transform:
        """Write the features of a window (samples x 1) into the model's input. Raises ModelError: no such window."""
        _check_window(data, self._window_shape)
        features = self._front_end(np.asarray(data[:, 0], np.float32))
        view[...] = self._tensor.quantize((features - self._mean) / self._std).reshape(view.shape)
        return self._transform


def rows_and_columns(spec: ModelInputSpec) -> tuple[int, int]:
    """Of what a window becomes: samples x channels, or features x bands. Raises ModelError."""
    if isinstance(spec, SeriesInput):
        return spec.samples, len(spec.channels)
    window = window_of(spec)
    assert isinstance(spec, AudioInput)  # noqa: S101 - nobody asks for pictures
    assert window is not None  # noqa: S101
    return make_front_end(spec.front_end, spec.rate_hz, window.samples).shape


def _check_size(tensor: TensorInfo, shape: tuple[int, int], what: str) -> None:
    """Dimensions of 1 do not matter, the order of the others does."""
    if [size for size in tensor.shape if size != 1] != [size for size in shape if size != 1]:
        given, wanted = ("x".join(map(str, sizes)) for sizes in (tensor.shape, shape))
        raise ModelError(f"input {tensor.name}: the model takes {given}, the manifest says {wanted} ({what})")


def _numbers(key: str, values: tuple[float, ...]) -> NDArray[np.float32]:
    """As float32. Raises ModelError: a mean that is no number would make all values missing ones, and nobody would
    notice."""
    with np.errstate(all="ignore"):
        numbers = np.array(values, np.float32)
        usable = np.isfinite(numbers) if key == "mean" else np.isfinite(1 / numbers)
    if not usable.all():
        raise ModelError(f"input.{key}: expected numbers that float32 holds, got {list(values)}")
    return numbers


def _check_window(data: NDArray[np.generic], shape: tuple[int, int]) -> None:
    if data.dtype != np.float32 or data.shape != shape:
        wanted, given = ("x".join(map(str, sizes)) for sizes in (shape, data.shape))
        hint = "; this model takes no pictures" if data.dtype == np.uint8 else ""
        raise ModelError(f"expected a window of {wanted} samples, got {given} {data.dtype}{hint}")


def _identity(shape: tuple[int, int]) -> Transform:
    wh = (shape[1], shape[0])
    return Transform(np.eye(3)[:2], wh, wh)


def step_rows(tensor: TensorInfo, rows: int, columns: int) -> int | None:
    """How many rows of a window the tensor takes at a time, when that is not all of them at once."""
    size = math.prod(tensor.shape)
    at_a_time = size // columns if columns and size % columns == 0 else 0
    return at_a_time if 0 < at_a_time < rows else None
