"""Front ends: log-mel against YAMNet's definition written out slowly, `micro` against its own streaming use."""

import math
import sys

import numpy as np
import pytest

from agent.errors import ModelError
from agent.inference.front_end import make_front_end
from agent.manifest import LogMelFrontEnd, MicroFrontEnd, RawFrontEnd

RATE_HZ = 16000


def noise(samples: int, seed: int = 1):
    return np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)


def tone(hz: float, samples: int):
    return (0.5 * np.sin(2 * np.pi * hz * np.arange(samples) / RATE_HZ)).astype(np.float32)


def slow_log_mel(window, spec: LogMelFrontEnd, rate_hz: int):
    """YAMNet's features.py with tf.signal's definitions, in float64, one number at a time."""
    frame, hop = round(spec.frame_s * rate_hz), round(spec.hop_s * rate_hz)
    fft = 2 ** math.ceil(math.log2(frame))
    hann = [0.5 - 0.5 * math.cos(2 * math.pi * n / frame) for n in range(frame)]
    edges = np.linspace(*(1127.0 * math.log(1 + hz / 700.0) for hz in (spec.low_hz, spec.high_hz)), spec.bands + 2)
    waves = np.exp(-2j * np.pi * np.outer(np.arange(fft // 2 + 1), np.arange(frame)) / fft)
    rows = []
    for start in range(0, len(window) - frame + 1, hop):
        magnitudes = np.abs(waves @ (window[start : start + frame].astype(np.float64) * hann))
        row = []
        for band in range(spec.bands):
            low, middle, high = edges[band : band + 3]
            total = 0.0
            for k in range(1, fft // 2 + 1):
                mel = 1127.0 * math.log(1 + k * rate_hz / fft / 700.0)
                total += magnitudes[k] * max(0.0, min((mel - low) / (middle - low), (high - mel) / (high - middle)))
            row.append(math.log(total + spec.offset))
        rows.append(row)
    return np.array(rows)


class TestRaw:
    def test_it_is_the_samples_themselves(self):
        front_end, window = make_front_end(RawFrontEnd(), RATE_HZ, 1760), noise(1760)
        assert front_end.shape == (1760, 1)
        assert np.array_equal(front_end(window)[:, 0], window)


class TestLogMel:
    def test_a_window_of_yamnet_is_96_features_of_64_bands(self):
        assert make_front_end(LogMelFrontEnd(), RATE_HZ, 15600).shape == (96, 64)

    @pytest.mark.parametrize(
        ("spec", "rate_hz", "samples"),
        [
            (LogMelFrontEnd(), 16000, 2000),
            (LogMelFrontEnd(frame_s=0.032, hop_s=0.016, bands=40, low_hz=0, high_hz=8000), 16000, 2048),
            (LogMelFrontEnd(frame_s=0.02, hop_s=0.02, bands=13, high_hz=3500, offset=1e-6), 8000, 999),
        ],
    )
    def test_it_is_what_its_definition_says(self, spec, rate_hz, samples):
        window = noise(samples)
        expected = slow_log_mel(window, spec, rate_hz)
        front_end = make_front_end(spec, rate_hz, samples)
        found = front_end(window)
        assert front_end.shape == found.shape == expected.shape
        assert found.dtype == np.float32
        assert np.allclose(found, expected, atol=2e-4)

    def test_silence_is_the_logarithm_of_the_offset(self):
        found = make_front_end(LogMelFrontEnd(), RATE_HZ, 15600)(np.zeros(15600, np.float32))
        assert np.allclose(found, math.log(0.001))

    def test_a_higher_tone_is_in_a_higher_band(self):
        front_end = make_front_end(LogMelFrontEnd(), RATE_HZ, 15600)
        loudest = [int(front_end(tone(hz, 15600)).mean(axis=0).argmax()) for hz in (200, 500, 1000, 3000, 7000)]
        assert loudest == sorted(set(loudest))

    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (LogMelFrontEnd(frame_s=2.0), r"frame_s: expected between a sample and the window \(0.975 s\), got 2"),
            (LogMelFrontEnd(frame_s=1e-6), "frame_s: expected between a sample"),
            (LogMelFrontEnd(hop_s=1e-6), "hop_s: expected at least a sample"),
            (LogMelFrontEnd(high_hz=9000), r"low_hz < high_hz <= 8000 \(half of rate_hz\), got 125 and 9000"),
            (LogMelFrontEnd(low_hz=7500), "low_hz < high_hz"),
            (LogMelFrontEnd(frame_s=0.9, hop_s=1 / RATE_HZ), "more than fit into memory"),
        ],
    )
    def test_numbers_that_do_not_go_together_are_named(self, spec, message):
        with pytest.raises(ModelError, match=message):
            make_front_end(spec, RATE_HZ, 15600)


class TestMicro:
    @pytest.mark.parametrize(("samples", "rows"), [(480, 1), (639, 1), (640, 2), (40000, 248)])
    def test_it_has_40_features_every_10_ms(self, samples, rows):
        front_end = make_front_end(MicroFrontEnd(), RATE_HZ, samples)
        assert front_end.shape == front_end(noise(samples)).shape == (rows, 40)

    def test_it_is_what_the_package_gives_for_the_same_sound_as_a_stream(self):
        from pymicro_features import MicroFrontend

        pcm = np.rint(noise(16000) * 32768).astype("<i2")
        stream, expected = MicroFrontend(), []
        for start in range(0, len(pcm), 160):
            features = stream.process_samples(pcm[start : start + 160].tobytes()).features
            if features:
                expected.append(features)
        found = make_front_end(MicroFrontEnd(), RATE_HZ, 16000)(pcm.astype(np.float32) / 32768)
        assert np.array_equal(found, np.array(expected, np.float32))

    def test_a_window_knows_nothing_of_the_one_before(self):
        front_end = make_front_end(MicroFrontEnd(), RATE_HZ, 8000)
        first = front_end(noise(8000))
        front_end(tone(440.0, 8000))
        assert np.array_equal(front_end(noise(8000)), first)

    def test_what_is_too_loud_does_not_wrap_around(self):
        front_end = make_front_end(MicroFrontEnd(), RATE_HZ, 8000)
        loud = 2 * tone(440.0, 8000)
        assert np.array_equal(front_end(1.5 * loud), front_end(np.clip(1.5 * loud, -1, 1)))

    def test_another_rate_is_refused(self):
        with pytest.raises(ModelError, match="rate_hz: expected 16000 for front_end micro, got 8000"):
            make_front_end(MicroFrontEnd(), 8000, 16000)

    def test_a_window_shorter_than_its_frame_is_refused(self):
        with pytest.raises(ModelError, match=r"window_s: expected at least 0\.03"):
            make_front_end(MicroFrontEnd(), RATE_HZ, 479)

    def test_without_the_package_the_mend_is_named(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "pymicro_features", None)
        with pytest.raises(ModelError, match=r"pip install 'edge-agent\[audio\]'"):
            make_front_end(MicroFrontEnd(), RATE_HZ, 16000)
