"""Sound at another rate: chunk by chunk, without clicks where chunks meet.

A windowed sinc, cut into phases: each output sample is a weighted sum of the inputs around it. What lies over half of
the lower of the two rates is damped by 70 dB, so that it does not come back as a tone that nobody made; from 0.86 of
that downwards sound passes as it is. Output lags behind input by 32 samples of the lower rate (2 ms at 16 kHz).
"""

import math

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from agent.errors import SourceUnusable
from agent.values import Samples

_REACH = 32
"""Samples of the lower rate that count on either side."""
_DAMPING_DB = 70.0
_MAX_WEIGHTS = 1 << 21
"""8 MiB: rates that hardly divide each other need as many phases as the higher one has hertz."""
_BLOCK = 2048
"""Output samples at a time: their inputs are gathered side by side, a copy for each."""


class Resampler:
    """Brings one stream from a rate to another. Not thread-safe."""

    def __init__(self, from_hz: int, to_hz: int) -> None:
        """Work out the filter.

        Raises:
            SourceUnusable: the rates have too little in common, or one is under 1 Hz.
        """
        if min(from_hz, to_hz) < 1:
            raise SourceUnusable(f"can't bring sound from {from_hz} to {to_hz} Hz; is the model one for sound?")
        shared = math.gcd(from_hz, to_hz)
        self._up, self._down = to_hz // shared, from_hz // shared
        reach = math.ceil(_REACH * max(1.0, self._down / self._up))
        if self._up * 2 * reach > _MAX_WEIGHTS:
            raise SourceUnusable(
                f"can't bring sound from {from_hz} to {to_hz} Hz: the rates have too little in common; "
                "use a usual one, such as 16000, 44100 or 48000"
            )
        self._weights = _weights(self._up, self._down, reach)
        self._before = reach - 1
        self._kept: Samples | None = None
        self._next = 0

    def __call__(self, chunk: Samples) -> Samples:
        """The stream's next samples, T x channels, at the new rate: what can be told so far, float32; maybe none.

        Over the whole stream, output sample n is what the input was at `n / to_hz` seconds.
        """
        if self._up == self._down:
            return chunk
        if self._kept is None:
            self._kept = np.zeros((self._before, chunk.shape[1]), np.float32)
        held = np.concatenate([self._kept, chunk])
        ready = len(held) - self._weights.shape[1] + 1
        count = max(0, -(-(ready * self._up - self._next) // self._down))
        made = np.empty((count, chunk.shape[1]), np.float32)
        for start in range(0, count, _BLOCK):
            block = made[start : start + _BLOCK]
            at = self._next + self._down * np.arange(start, start + len(block), dtype=np.int64)
            around = sliding_window_view(held, self._weights.shape[1], axis=0)[at // self._up]
            np.einsum("nct,nt->nc", around, self._weights[at % self._up], out=block)
        self._next += count * self._down
        done = self._next // self._up
        self._kept, self._next = held[done:].copy(), self._next - done * self._up
        return made

    def reset(self) -> None:
        """What comes next does not go on from what came before."""
        self._kept, self._next = None, 0


def _weights(up: int, down: int, reach: int) -> NDArray[np.float32]:
    """What the inputs around an output sample count: phases x taps.

    Phase p is for outputs that lie p / `up` of an input sample behind tap `reach` - 1. Each adds up to 1.
    """
    # Kaiser's own formulas: how steep so many taps can be, and the window's parameter for this damping.
    width = (_DAMPING_DB - 8) / (2.285 * 2 * _REACH * math.pi)
    beta = 0.1102 * (_DAMPING_DB - 8.7)
    cutoff = min(1.0, up / down) * (1 - width / 2)
    offsets = np.arange(1 - reach, reach + 1) - np.arange(up)[:, None] / up
    window = np.i0(beta * np.sqrt(np.clip(1 - (offsets / reach) ** 2, 0, 1)))
    weights: NDArray[np.float64] = np.sinc(cutoff * offsets) * window
    weights /= weights.sum(axis=1, keepdims=True)
    return weights.astype(np.float32)
