"""WAV files of all kinds, and broken ones."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

PCM, FLOAT, EXTENSIBLE = 1, 3, 0xFFFE


def encode(samples: NDArray[np.float64], bits: int, is_float: bool = False) -> bytes:
    """Values between -1 and 1, T or T x channels, as the bytes of a WAV file's sound."""
    flat = np.asarray(samples, np.float64).reshape(-1)
    if is_float:
        return flat.astype("<f4").tobytes()
    whole = np.clip(np.rint(flat * 2 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype("<i8")
    if bits == 8:
        return (whole + 128).astype(np.uint8).tobytes()
    return whole[:, None].view(np.uint8)[:, : bits // 8].tobytes()


def wav(
    data: bytes,
    *,
    rate_hz: int = 16000,
    channels: int = 1,
    bits: int = 16,
    kind: int = PCM,
    size: int | None = None,
    before: bytes = b"",
) -> bytes:
    """A whole file; `size`: what it says of its sound, `before`: other parts in front of it."""
    each = channels * bits // 8
    form = struct.pack("<HHIIHH", kind, channels, rate_hz, rate_hz * each & 0xFFFFFFFF, each & 0xFFFF, bits)
    if kind == EXTENSIBLE:
        form += struct.pack("<HHIH", 22, bits, 0, PCM) + bytes.fromhex("000000001000800000aa00389b71")
    size = len(data) if size is None else size
    parts = before + b"fmt " + struct.pack("<I", len(form)) + form + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", (4 + len(parts)) & 0xFFFFFFFF) + b"WAVE" + parts


def write_wav(path: Path, samples: NDArray[np.float64], rate_hz: int = 16000, bits: int = 16) -> Path:
    """Values between -1 and 1, T or T x channels, as a file."""
    samples = np.asarray(samples, np.float64)
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    path.write_bytes(wav(encode(samples, bits), rate_hz=rate_hz, channels=channels, bits=bits))
    return path
