"""Preprocessing done slowly, in float64, straight from the definitions; written without a look at agent.inference."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def bilinear(picture: NDArray[np.uint8], width: int, height: int, sampling: str) -> Floats:
    """Scale a picture; `half_pixel` aligns the pictures' edges, `corner` the middles of their first pixels."""
    along_y = _taps(picture.shape[0], height, sampling)
    along_x = _taps(picture.shape[1], width, sampling)
    floats = picture.astype(np.float64)
    rows = _mix(floats, along_y, axis=0)
    return _mix(rows, along_x, axis=1)


def _taps(size: int, new_size: int, sampling: str) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    out = np.arange(new_size)
    at = (out + 0.5) * size / new_size - 0.5 if sampling == "half_pixel" else out * (size / new_size)
    at = np.clip(at, 0.0, size - 1.0)
    low = np.floor(at).astype(int)
    return low, np.minimum(low + 1, size - 1), at - low


def _mix(picture: Floats, taps: tuple[NDArray[np.intp], NDArray[np.intp], Floats], axis: int) -> Floats:
    low, high, share = taps
    share = share.reshape([-1 if at == axis else 1 for at in range(picture.ndim)])
    return np.take(picture, low, axis) * (1 - share) + np.take(picture, high, axis) * share


def color(bgr: Floats, wanted: str) -> Floats:
    """From BGR, with ITU-R BT.601 weights for gray."""
    if wanted == "gray":
        return bgr[..., 0] * 0.114 + bgr[..., 1] * 0.587 + bgr[..., 2] * 0.299
    return bgr[..., ::-1] if wanted == "rgb" else bgr


def normalize(pixels: Floats, mean: tuple[float, ...], std: tuple[float, ...]) -> Floats:
    return (pixels - np.array(mean)) / np.array(std)


def quantize(real: Floats, dtype: str, scale: float, zero_point: int) -> NDArray[np.generic]:
    """TensorFlow Lite's 8-bit quantization, saturating."""
    limits = np.iinfo(dtype)
    return np.clip(np.round(real / scale) + zero_point, limits.min, limits.max).astype(dtype)
