"""The microphone, with a program in arecord's place that keeps time and can misbehave; tests/paths has the real one."""

import threading
import time

import msgspec
import numpy as np
import pytest

from agent.capture import make_source
from agent.capture.microphone import _SoundClock
from agent.config import MicrophoneSource
from agent.errors import SourceError, SourceUnusable
from tests.sim.fake_arecord import path_with, put_arecord

SECOND_NS = 1_000_000_000


@pytest.fixture
def arecord(tmp_path, monkeypatch):
    """Puts a fake one into PATH: `arecord(samples=..., ...)`."""
    monkeypatch.setenv("PATH", path_with(tmp_path))
    return lambda **how: put_arecord(tmp_path, **how)


@pytest.fixture
def opened():
    """Opens microphones: `opened(device=..., ...)`; they are closed at the end."""
    sources = []

    def make(**options):
        sources.append(make_source(MicrophoneSource(**options)))
        sources[-1].open()
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def tones_hz(data, rate_hz):
    spectrum = np.abs(np.fft.rfft(data[:, 0] * np.hanning(len(data))))
    return {round(k * rate_hz / len(data) / 1000) * 1000 for k in np.flatnonzero(spectrum > 0.3 * spectrum.max())}


class TestFrames:
    def test_they_are_50_ms_of_one_channel_that_go_on_from_each_other(self, arecord, opened):
        arecord()
        source = opened()
        frames = [source.read() for _ in range(6)]
        sound = np.concatenate([frame.data for frame in frames])
        assert [frame.data.shape for frame in frames] == [(800, 1)] * 6
        assert {(frame.channels, frame.rate_hz, frame.data.dtype.name) for frame in frames} == {
            (("sound",), 16000.0, "float32")
        }
        assert [frame.is_first for frame in frames] == [True] + [False] * 5
        assert [frame.index for frame in frames] == list(range(6))
        expected = np.rint(16384 * np.sin(2 * np.pi * 1000 * np.arange(len(sound)) / 16000)) / 32768
        assert np.allclose(sound[:, 0], expected, atol=2 / 32768)

    def test_they_are_stamped_50_ms_apart_and_never_in_the_future(self, arecord, opened):
        arecord()
        source = opened()
        for _ in range(3):
            source.read()
        stamps = []
        for _ in range(6):
            stamps.append(source.read().captured_ns)
            assert stamps[-1] <= time.monotonic_ns()
        assert np.allclose(np.diff(stamps) / 1e6, 50, atol=20)

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            ({"channels": 2}, {1000, 2000}),
            ({"channels": 2, "channel": 0}, {1000}),
            ({"channels": 3, "channel": 2}, {3000}),
        ],
    )
    def test_of_several_channels_one_counts_or_their_mean(self, arecord, opened, options, expected):
        arecord()
        assert tones_hz(opened(rate_hz=8000, **options).read().data, 8000) == expected

    def test_another_rate_is_asked_for(self, arecord, opened):
        arecord()
        frame = opened(rate_hz=44100).read()
        assert (frame.rate_hz, frame.data.shape) == (44100.0, (2205, 1))


class TestTrouble:
    def test_an_unplugged_one_is_lost_with_what_arecord_said(self, arecord, opened):
        arecord(samples=1600)
        source = opened(device="plughw:1")
        source.read()
        source.read()
        with pytest.raises(SourceError, match=r"microphone plughw:1: arecord ended with exit status 1: .*device"):
            source.read()

    def test_sound_that_got_lost_ends_it(self, arecord, opened):
        arecord(samples=800, last_words="arecord: xrun:1641: fatal overrun: Success")
        source = opened()
        source.read()
        with pytest.raises(SourceError, match=r"fatal overrun.*; sound got lost"):
            source.read()

    def test_a_silent_pipe_is_a_stall(self, arecord, opened):
        arecord(samples=800, stalls=True)
        source = opened(read_timeout_s=0.2)
        source.read()
        with pytest.raises(SourceError, match=r"microphone default: no data for 0\.2 s"):
            source.read()

    @pytest.mark.parametrize(
        ("reason", "mend"),
        [
            ("No such file or directory", "`arecord -L` lists the devices"),
            ("Device or resource busy", "fuser -v /dev/snd"),
            ("Permission denied", "into the group audio"),
            ("Connection refused", "no sound server runs"),
            ("Channels count non available", "plughw:"),
        ],
    )
    def test_a_device_that_refuses_is_an_error_with_the_mend_and_may_come_later(self, arecord, opened, reason, mend):
        arecord(refuses=reason)
        with pytest.raises(SourceError) as caught:
            opened().read()
        assert not isinstance(caught.value, SourceUnusable)
        assert reason in str(caught.value)
        assert mend in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_without_arecord_the_package_is_named(self, tmp_path, monkeypatch, opened):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(SourceError, match="apt install alsa-utils"):
            opened()

    def test_interrupt_wakes_a_read(self, arecord, opened):
        arecord(samples=800, stalls=True)
        source = opened(read_timeout_s=60)
        source.read()
        threading.Timer(0.1, source.interrupt).start()
        with pytest.raises(SourceError, match="microphone default: closed"):
            source.read()

    def test_a_device_with_another_rate_than_it_says_is_found_out(self, arecord, opened):
        arecord(speed=30.0)
        source = opened(rate_hz=4000)

        def listen():
            while True:
                source.read()

        with pytest.raises(SourceError, match=r"microphone default: gives \d+ samples a second instead of 4000"):
            listen()


class TestClock:
    """Stamps from how much sound came, whenever it came."""

    def stamps(self, arrivals_ns, rate_hz=16000, samples=800):
        clock = _SoundClock(rate_hz)
        return [clock.stamp(samples, arrival_ns) for arrival_ns in arrivals_ns]

    def test_sound_that_waited_in_the_pipe_is_dated_back(self):
        start_ns = 77 * SECOND_NS
        on_time = [start_ns + turn * SECOND_NS // 20 for turn in range(40)]
        late = on_time[:10] + [max(arrival_ns, start_ns + SECOND_NS) for arrival_ns in on_time[10:]]
        found = self.stamps(late)
        assert np.allclose((np.array(found) - on_time) / 1e6, 0, atol=2)
        assert found == sorted(found)

    @pytest.mark.parametrize("drift", [-3e-4, 3e-4])
    def test_a_device_whose_clock_drifts_is_followed_for_days(self, drift):
        """A call for each minute of three days."""
        arrivals = [round(minute * 60 * SECOND_NS * (1 + drift)) for minute in range(1, 3 * 24 * 60)]
        found = self.stamps(arrivals, samples=60 * 16000)
        assert np.allclose((np.array(found) - arrivals) / 1e6, 0, atol=1)

    @pytest.mark.parametrize("share", [44.1 / 48, 48 / 44.1, 3.0, 1 / 3])
    def test_another_rate_is_found_out_within_two_minutes_of_sound(self, share):
        arrivals = [round(turn * SECOND_NS / 20 / share) for turn in range(1, 2400)]
        with pytest.raises(SourceError) as caught:
            self.stamps(arrivals)
        assert int(str(caught.value).split()[1]) == pytest.approx(16000 * share, rel=0.001)


class TestConfiguration:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"device": "hw:1,0"}, "device: expected plughw:1,0, which converts rates, got hw:1,0"),
            ({"device": "-c"}, "device"),
            ({"device": ""}, "device"),
            ({"rate_hz": 100}, "rate_hz"),
            ({"channels": 2, "channel": 2}, r"channel: expected less than 2 \(channels\), got 2"),
        ],
    )
    def test_what_can_not_work_is_refused(self, options, message):
        with pytest.raises(msgspec.ValidationError, match=message):
            msgspec.convert({"type": "microphone", **options}, MicrophoneSource)
