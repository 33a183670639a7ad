"""The resampler against sines, whose samples at any rate are known."""

import numpy as np
import pytest

from agent.capture.resample import Resampler
from agent.errors import SourceUnusable

RATES = [(48000, 16000), (44100, 16000), (8000, 16000), (16000, 48000), (11025, 16000), (16001, 16000), (32000, 8000)]


def sine(hz: float, rate_hz: int, samples: int):
    return np.sin(2 * np.pi * hz * np.arange(samples) / rate_hz + 0.3).astype(np.float32)[:, None]


def in_chunks(resampler: Resampler, sound, size: int):
    return np.concatenate([resampler(sound[start : start + size]) for start in range(0, len(sound), size)])


def decibel(sound) -> float:
    """Of the middle half: the stream's ends meet silence."""
    middle = sound[len(sound) // 4 : -len(sound) // 4]
    return 20 * np.log10(np.sqrt(np.mean(np.square(middle, dtype=np.float64))) + 1e-12)


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
@pytest.mark.parametrize("share", [0.01, 0.25, 0.8, 0.86])
def test_what_the_lower_rate_can_hold_comes_through_as_it_was(from_hz, to_hz, share):
    hz = share * min(from_hz, to_hz) / 2
    out = in_chunks(Resampler(from_hz, to_hz), sine(hz, from_hz, from_hz), from_hz // 20)
    assert decibel(out - sine(hz, to_hz, len(out))) < -60


@pytest.mark.parametrize(("from_hz", "to_hz"), [rates for rates in RATES if rates[0] > rates[1] + 1])
@pytest.mark.parametrize("share", [1.0, 1.04, 1.3, 1.9])
def test_what_it_can_not_hold_does_not_come_back_as_another_tone(from_hz, to_hz, share):
    out = in_chunks(Resampler(from_hz, to_hz), sine(share * to_hz / 2, from_hz, from_hz), from_hz // 20)
    assert decibel(out) < -63  # a sine as loud as can be has -3


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8000, 16000), (16000, 48000)])
def test_a_higher_rate_brings_no_mirrored_tones(from_hz, to_hz):
    out = in_chunks(Resampler(from_hz, to_hz), sine(0.8 * from_hz / 2, from_hz, from_hz), from_hz // 20)
    middle = out[len(out) // 4 : -len(out) // 4, 0]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle)))) ** 2
    above = spectrum[len(spectrum) * from_hz // to_hz :]
    assert 10 * np.log10(above.sum() / spectrum.sum()) < -60


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_chunks_of_any_size_give_the_same_samples(from_hz, to_hz):
    sound = np.random.default_rng(1).uniform(-1, 1, (5000, 2)).astype(np.float32)
    whole = Resampler(from_hz, to_hz)(sound)
    for size in (1, 7, 800, 2400):
        assert np.allclose(in_chunks(Resampler(from_hz, to_hz), sound, size), whole, atol=1e-6), size


@pytest.mark.parametrize(("from_hz", "to_hz"), RATES)
def test_as_many_samples_come_as_the_rates_say_but_for_the_lag(from_hz, to_hz):
    out = in_chunks(Resampler(from_hz, to_hz), np.zeros((from_hz, 1), np.float32), from_hz // 20)
    lag = 32 * to_hz / min(from_hz, to_hz)
    assert to_hz - lag - 1 <= len(out) <= to_hz - lag + 1


def test_channels_are_kept_apart():
    left, right = sine(300.0, 48000, 4800), sine(1100.0, 48000, 4800)
    both = Resampler(48000, 16000)(np.hstack([left, right]))
    assert np.allclose(both[:, :1], Resampler(48000, 16000)(left), atol=1e-6)
    assert np.allclose(both[:, 1:], Resampler(48000, 16000)(right), atol=1e-6)


def test_a_constant_stays_exactly_that():
    out = Resampler(44100, 16000)(np.full((44100, 1), 0.5, np.float32))
    assert np.allclose(out[100:], 0.5, atol=1e-6)


def test_after_a_reset_nothing_of_the_sound_before_is_left():
    sound = sine(440.0, 48000, 4800)
    resampler = Resampler(48000, 16000)
    first = resampler(sound)
    resampler.reset()
    assert np.array_equal(resampler(sound), first)


def test_the_same_rate_hands_the_chunk_through():
    sound = sine(440.0, 16000, 800)
    assert Resampler(16000, 16000)(sound) is sound


def test_the_result_is_float32_in_memory_of_its_own():
    sound = sine(440.0, 48000, 4800)
    out = Resampler(48000, 16000)(sound)
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    assert not np.shares_memory(out, sound)


def test_rates_that_hardly_divide_each_other_are_refused_with_the_way_out():
    with pytest.raises(SourceUnusable, match=r"can't bring sound from 191999 to 16001 Hz.*use a usual one"):
        Resampler(191999, 16001)


def test_sound_for_a_model_of_slow_sensors_is_refused():
    with pytest.raises(SourceUnusable, match="from 16000 to 0 Hz"):
        Resampler(16000, round(0.2))
