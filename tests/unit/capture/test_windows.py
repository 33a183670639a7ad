"""Samples into windows: every sample in its place, gaps held and then left out, sound at the model's rate."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.windows import Windows
from agent.errors import SourceError
from agent.values import Frame, Window

SECOND_NS = 1_000_000_000


def window(channels=("a",), samples=4, stride=2, rate_hz=None, max_gap_s=5.0, keeps_missing=False):
    return Window(
        channels=channels,
        samples=samples,
        stride=stride,
        rate_hz=rate_hz,
        max_gap_s=max_gap_s,
        keeps_missing=keeps_missing,
    )


def chunk(rows, at_s=0.0, channels=("a",), rate_hz=None, is_first=False):
    data = np.array(rows, np.float32).reshape(len(rows), len(channels))
    at_ns = round(at_s * SECOND_NS)
    return Frame(data, 0, at_ns, at_ns, None, channels, rate_hz, is_first)


def readings(values, every_s=1.0, **more):
    """One value a reading."""
    return [chunk([value], turn * every_s, is_first=turn == 0, **more) for turn, value in enumerate(values)]


def cut(frames, wanted):
    windows = Windows()
    return [made for frame in frames for made in windows.cut(frame, wanted)], windows


def values(made):
    return [frame.data[:, 0].tolist() for frame in made]


class TestAsTheyCome:
    def test_windows_overlap_by_the_stride(self):
        made, _ = cut(readings([1, 2, 3, 4, 5, 6, 7]), window())
        assert values(made) == [[1, 2, 3, 4], [3, 4, 5, 6]]
        assert [frame.index for frame in made] == [0, 1]
        assert [frame.captured_ns for frame in made] == [3 * SECOND_NS, 5 * SECOND_NS]

    def test_a_stride_over_the_length_leaves_samples_out(self):
        made, _ = cut(readings(range(12)), window(samples=2, stride=5))
        assert values(made) == [[0, 1], [5, 6], [10, 11]]

    @given(
        sizes=st.lists(st.integers(1, 9), min_size=1, max_size=20),
        samples=st.integers(1, 12),
        stride=st.integers(1, 15),
    )
    def test_the_size_of_chunks_does_not_matter(self, sizes, samples, stride):
        total = sum(sizes)
        starts = np.cumsum([0, *sizes[:-1]])
        frames = [
            chunk(range(start, start + size), is_first=start == 0) for start, size in zip(starts, sizes, strict=True)
        ]
        made, _ = cut(frames, window(samples=samples, stride=stride))
        ends = range(samples, total + 1, stride)
        assert values(made) == [[float(value) for value in range(end - samples, end)] for end in ends]

    def test_what_came_before_a_break_is_forgotten(self):
        frames = [chunk([1, 2, 3], is_first=True), chunk([10, 11, 12, 13], is_first=True)]
        assert values(cut(frames, window())[0]) == [[10, 11, 12, 13]]

    def test_channels_are_chosen_by_name(self):
        frames = [
            chunk([[turn, 10 + turn, 20 + turn]], channels=("a", "b", "c"), is_first=turn == 0) for turn in (0, 1)
        ]
        made, _ = cut(frames, window(channels=("c", "a"), samples=2))
        assert made[0].data.tolist() == [[20, 0], [21, 1]]
        assert made[0].channels == ("c", "a")

    def test_a_channel_that_is_not_there_is_named(self):
        with pytest.raises(SourceError, match=r"takes a, z; the source has no z: a"):
            cut(readings([1]), window(channels=("a", "z")))

    def test_rates_that_have_too_little_in_common_stay_so_from_frame_to_frame(self):
        windows, odd = Windows(), window(rate_hz=16001.0, samples=4, channels=())
        for _ in range(2):
            with pytest.raises(SourceError, match="too little in common"):
                list(windows.cut(chunk([1, 2, 3, 4, 5], rate_hz=191999.0, channels=("sound",)), odd))

    def test_another_model_begins_with_what_comes_then(self):
        windows = Windows()
        frames = readings([1, 2, 3, 4, 5, 6])
        made = [one for frame in frames[:3] for one in windows.cut(frame, window())]
        made += [one for frame in frames[3:] for one in windows.cut(frame, window(samples=2))]
        assert values(made) == [[4, 5]]

    def test_windows_do_not_share_memory(self):
        made, _ = cut(readings([1, 2, 3, 4, 5, 6]), window())
        made[0].data[:] = 99
        assert values(made[1:]) == [[3, 4, 5, 6]]


class TestMissing:
    def test_a_window_with_a_missing_value_is_left_out_and_counted(self):
        made, windows = cut(readings([1, np.nan, 3, 4, 5, 6]), window())
        assert (values(made), windows.left_out) == ([[3, 4, 5, 6]], 1)

    def test_or_handed_over_where_the_model_takes_it(self):
        made, windows = cut(readings([1, np.nan, 3, 4]), window(keeps_missing=True))
        assert windows.left_out == 0
        assert np.isnan(made[0].data[1, 0])


class TestOnAGrid:
    def test_readings_of_one_period_are_averaged(self):
        made, _ = cut(readings([1, 3, 5, 7, 9, 11, 0], every_s=0.5), window(samples=3, stride=3, rate_hz=1.0))
        assert values(made) == [[1.0, 4.0, 8.0]]  # those nearer to 0 s, to 1 s, to 2 s

    def test_jitter_moves_no_sample(self):
        frames = [
            chunk([turn], turn + jitter, is_first=turn == 0) for turn, jitter in enumerate([0, 0.3, -0.3, 0.2, 0])
        ]
        assert values(cut(frames, window(rate_hz=1.0))[0]) == [[0, 1, 2, 3]]

    def test_a_gap_holds_the_last_value_for_as_long_as_it_may(self):
        frames = [chunk([5], 0.0, is_first=True), chunk([6], 3.0), chunk([7], 4.0)]
        assert values(cut(frames, window(rate_hz=1.0, max_gap_s=2.0))[0]) == [[5, 5, 5, 6]]
        made, windows = cut(frames, window(rate_hz=1.0, max_gap_s=1.0))
        assert (made, windows.left_out) == ([], 1)

    def test_a_channel_that_is_silent_is_held_by_itself(self):
        frames = [
            chunk([[turn, 9 if turn == 0 else np.nan]], turn, channels=("a", "b"), is_first=turn == 0)
            for turn in range(4)
        ]
        made, _ = cut(frames, window(channels=("a", "b"), samples=3, rate_hz=1.0))
        assert made[0].data.tolist() == [[0, 9], [1, 9], [2, 9]]

    def test_a_clock_that_jumps_far_begins_anew(self):
        frames = [chunk([1], 0.0, is_first=True), *[chunk([turn], 1e9 + turn) for turn in range(5)]]
        assert values(cut(frames, window(rate_hz=1.0))[0]) == [[0, 1, 2, 3]]

    def test_no_window_joins_what_lies_hours_apart(self):
        frames = [*readings([1, 2, 3, 4]), *[chunk([turn], 1e6 + turn) for turn in range(6)]]
        made, windows = cut(frames, window(rate_hz=1.0))
        assert (values(made), windows.left_out) == ([[0, 1, 2, 3]], 0)

    @given(st.lists(st.tuples(st.floats(0.0, 3.0), st.floats(-1e3, 1e3, width=32)), min_size=1, max_size=60))
    def test_each_period_is_the_mean_of_its_readings_or_the_last_before(self, steps):
        at_s, frames, seen = 0.0, [], []
        for pause_s, value in steps:
            at_s += pause_s
            seen.append((round(at_s * SECOND_NS), np.float32(value)))
            frames.append(chunk([value], seen[-1][0] / SECOND_NS, is_first=len(seen) == 1))
        made, _ = cut(frames, window(samples=1, stride=1, rate_hz=1.0, max_gap_s=1e6))
        origin_ns = seen[0][0]
        for place, frame in enumerate(made):
            inside = [value for at_ns, value in seen if int((at_ns - origin_ns) / SECOND_NS + 0.5) == place]
            before = [value for at_ns, value in seen if int((at_ns - origin_ns) / SECOND_NS + 0.5) < place]
            expected = np.mean(inside, dtype=np.float64) if inside else before[-1]
            assert frame.data[0, 0] == pytest.approx(expected, rel=1e-5, abs=1e-4)


class TestSound:
    def test_the_first_channel_is_taken_whatever_it_is_called(self):
        frames = [chunk([0.5, -0.5], channels=("sound",), rate_hz=8000.0, is_first=True)]
        made, _ = cut(frames, window(channels=(), samples=2, rate_hz=8000.0))
        assert (made[0].channels, made[0].rate_hz) == (("sound",), 8000.0)

    def test_the_time_of_a_window_is_that_of_its_last_sample(self):
        frames = [chunk(range(10), 1.0, channels=("sound",), rate_hz=10.0, is_first=True)]
        made, _ = cut(frames, window(channels=(), samples=4, stride=4, rate_hz=10.0))
        assert [frame.captured_ns for frame in made] == [400_000_000, 800_000_000]

    def test_another_rate_is_brought_to_the_models(self):
        t = np.arange(48000) / 48000
        tone = np.sin(2 * np.pi * 440 * t).astype(np.float32)
        frames = [
            chunk(tone[start : start + 2400], channels=("sound",), rate_hz=48000.0, is_first=start == 0)
            for start in range(0, 48000, 2400)
        ]
        made, _ = cut(frames, window(channels=(), samples=8000, stride=8000, rate_hz=16000.0))
        spectrum = np.abs(np.fft.rfft(made[0].data[:, 0] * np.hanning(8000)))
        assert spectrum.argmax() * 2 == 440
