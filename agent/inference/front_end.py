"""What a model hears: windows of sound turned into features, as the model's training did it."""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.manifest import FrontEnd, LogMelFrontEnd, MicroFrontEnd

_MAX_SPECTRUM = 1 << 24
"""Numbers in the spectra of one window: 64 MiB. A minute at 16 kHz in YAMNet's way has 3 million."""

_MICRO_RATE_HZ = 16000
_MICRO_FRAME = 480
_MICRO_HOP = 160
_MICRO_BANDS = 40


class FrontEndFn(Protocol):
    """Makes the features of one window. A window's features depend on nothing but the window."""

    shape: tuple[int, int]
    """Features x bands."""

    def __call__(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """The features of a window, which is T samples between -1 and 1; float32, of this shape."""


def make_front_end(spec: FrontEnd, rate_hz: int, samples: int) -> FrontEndFn:
    """The front end that a manifest describes, for windows of so many samples.

    Raises:
        ModelError: the numbers do not go together, or a package is missing.
    """
    if isinstance(spec, LogMelFrontEnd):
        return _LogMel(spec, rate_hz, samples)
    if isinstance(spec, MicroFrontEnd):
        return _Micro(rate_hz, samples)
    return _Raw(samples)


class _Raw:
    """The samples themselves."""

    def __init__(self, samples: int) -> None:
        self.shape = (samples, 1)

    def __call__(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        return window.reshape(self.shape)


class _LogMel:
    """log(mel spectrogram + offset), by TensorFlow's definitions.

    tf.signal.stft (periodic Hann window, zeros behind it up to the next power of two) and
    tf.signal.linear_to_mel_weight_matrix (HTK's mel scale, triangles without normalisation).
    """

    def __init__(self, spec: LogMelFrontEnd, rate_hz: int, samples: int) -> None:
        frame, self._hop = round(spec.frame_s * rate_hz), round(spec.hop_s * rate_hz)
        _check_log_mel(spec, rate_hz, samples, frame, self._hop)
        self._fft = 1 << (frame - 1).bit_length()
        rows = 1 + (samples - frame) // self._hop
        if rows * self._fft > _MAX_SPECTRUM:
            raise ModelError(
                f"input.front_end: {rows} spectra of {self._fft} samples are more than fit into memory; "
                "expected a longer hop_s or a shorter window_s"
            )
        self.shape = (rows, spec.bands)
        self._hann = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(frame) / frame)).astype(np.float32)
        self._mel = _mel_weights(spec, rate_hz, self._fft)
        self._offset = np.float32(spec.offset)

    def __call__(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        frames = sliding_window_view(window, len(self._hann))[:: self._hop]
        magnitudes = np.abs(np.fft.rfft(frames * self._hann, self._fft)).astype(np.float32, copy=False)
        features: NDArray[np.float32] = np.log(magnitudes @ self._mel + self._offset)
        return features


def _check_log_mel(spec: LogMelFrontEnd, rate_hz: int, samples: int, frame: int, hop: int) -> None:
    if not 1 <= frame <= samples:
        raise ModelError(
            f"input.front_end.frame_s: expected between a sample and the window ({samples / rate_hz:g} s), "
            f"got {spec.frame_s:g}"
        )
    if hop < 1:
        raise ModelError(f"input.front_end.hop_s: expected at least a sample ({1 / rate_hz:g} s), got {spec.hop_s:g}")
    if not spec.low_hz < spec.high_hz <= rate_hz / 2:
        raise ModelError(
            f"input.front_end: expected low_hz < high_hz <= {rate_hz / 2:g} (half of rate_hz), "
            f"got {spec.low_hz:g} and {spec.high_hz:g}"
        )


def _mel_weights(spec: LogMelFrontEnd, rate_hz: int, fft: int) -> NDArray[np.float32]:
    """Triangles that are even on the mel scale: bins x bands. Bin 0 (the mean) counts for nothing."""
    bins = _mel(np.arange(1, fft // 2 + 1) * (rate_hz / fft))[:, None]
    edges = np.linspace(_mel(spec.low_hz), _mel(spec.high_hz), spec.bands + 2)
    rise = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    fall = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    weights = np.maximum(0.0, np.minimum(rise, fall))
    return np.vstack([np.zeros(spec.bands), weights]).astype(np.float32)


def _mel(hz: Any) -> Any:
    """HTK's formula."""
    return 1127.0 * np.log1p(np.asarray(hz, np.float64) / 700.0)


class _Micro:
    """TensorFlow Lite Micro's front end: 40 features every 10 ms, noise damped and levels evened out."""

    def __init__(self, rate_hz: int, samples: int) -> None:
        if rate_hz != _MICRO_RATE_HZ:
            raise ModelError(f"input.rate_hz: expected {_MICRO_RATE_HZ} for front_end micro, got {rate_hz}")
        if samples < _MICRO_FRAME:
            raise ModelError(f"input.window_s: expected at least {_MICRO_FRAME / rate_hz:g} for front_end micro")
        self._make = _load_micro()
        self.shape = (1 + (samples - _MICRO_FRAME) // _MICRO_HOP, _MICRO_BANDS)

    def __call__(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        pcm = np.clip(np.rint(window * 32768.0), -32768, 32767).astype("<i2").tobytes()
        front_end = self._make()  # a new one each time: it goes on from what it has heard
        features = np.empty(self.shape, np.float32)
        row, hop_bytes = 0, 2 * _MICRO_HOP
        for start in range(0, len(pcm) - hop_bytes + 1, hop_bytes):
            made = front_end.process_samples(pcm[start : start + hop_bytes]).features
            if made:  # not yet, while its first frame is filling
                features[row] = made
                row += 1
        return features


def _load_micro() -> Callable[[], Any]:
    try:
        from pymicro_features import MicroFrontend
    except ImportError as exc:
        raise ModelError(
            "input.front_end: micro needs the package pymicro-features: pip install 'edge-agent[audio]'"
        ) from exc
    make: Callable[[], Any] = MicroFrontend
    return make
