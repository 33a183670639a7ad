"""What microphones and recordings of sound have in common: chunks, and how bytes become samples."""

import time

import numpy as np
from numpy.typing import NDArray

from agent.values import Frame, Samples

SOUND = ("sound",)
"""The one channel of a frame of sound."""
MAX_RATE_HZ = 384_000
"""More is damage or a mistake."""

_CHUNKS_PER_S = 20


def chunk_samples(rate_hz: int) -> int:
    """How many samples make a frame: 50 ms."""
    return max(1, rate_hz // _CHUNKS_PER_S)


def from_pcm(data: bytes, bits: int) -> Samples:
    """Little-endian integers of 8 (unsigned), 16, 24 or 32 bits, as float32 between -1 and 1."""
    if bits == 8:
        return (np.frombuffer(data, np.uint8).astype(np.float32) - np.float32(128)) / np.float32(128)
    if bits == 24:
        wide: NDArray[np.uint8] = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        data, bits = wide.tobytes(), 32
    return np.frombuffer(data, f"<i{bits // 8}").astype(np.float32) / np.float32(1 << (bits - 1))


def to_mono(samples: Samples, channels: int, channel: int | None) -> Samples:
    """Interleaved samples of several channels to T x 1: one of them, or their mean."""
    each = samples.reshape(-1, channels)
    if channel is not None:
        return np.ascontiguousarray(each[:, channel : channel + 1])
    return each if channels == 1 else each.mean(axis=1, keepdims=True, dtype=np.float32)


def make_sound_frame(
    data: Samples,
    index: int,
    rate_hz: int,
    *,
    is_first: bool,
    captured_ns: int | None = None,
    position_ns: int | None = None,
) -> Frame:
    """Stamp a chunk. `captured_ns` is that of its end, on the monotonic clock; None: now."""
    now_ns = time.monotonic_ns()
    captured_ns = now_ns if captured_ns is None else captured_ns
    at_ns = time.time_ns() - (now_ns - captured_ns)
    return Frame(data, index, captured_ns, at_ns, position_ns, SOUND, float(rate_hz), is_first)
