"""Recordings of sound: every kind of WAV file, and broken ones."""

import contextlib
import struct
import subprocess
import time

import numpy as np
import pytest

from agent.capture import make_source
from agent.config import FileSource
from agent.errors import SourceError, SourceUnusable
from tests.sim import require_program
from tests.sim.wavs import EXTENSIBLE, FLOAT, encode, wav, write_wav

SOUND = np.random.default_rng(3).uniform(-1, 1, 2000)


def play(path, **options):
    """All frames, as fast as it goes."""
    source = make_source(FileSource(path=str(path), **{"realtime": False, **options}))
    frames = []
    with contextlib.closing(source):
        source.open()
        while (frame := source.read()) is not None:
            frames.append(frame)
    return frames


def sound_of(frames):
    return np.concatenate([frame.data for frame in frames])[:, 0]


class TestFormats:
    @pytest.mark.parametrize("bits", [8, 16, 24, 32])
    @pytest.mark.parametrize("kind", [1, EXTENSIBLE])
    def test_integers_of_all_sizes(self, tmp_path, bits, kind):
        path = tmp_path / "a.wav"
        path.write_bytes(wav(encode(SOUND, bits), bits=bits, kind=kind))
        assert np.allclose(sound_of(play(path)), SOUND, atol=1.01 / 2 ** (bits - 1) + 1e-6)

    def test_float_with_what_is_no_sound_in_it(self, tmp_path):
        values = np.array([0.25, -1.5, np.nan, np.inf, 1e-30])
        path = tmp_path / "a.wav"
        path.write_bytes(wav(encode(values, 32, is_float=True), bits=32, kind=FLOAT))
        assert np.allclose(sound_of(play(path)), [0.25, -1, 0, 1, 0])

    @pytest.mark.parametrize("rate_hz", [8000, 11025, 16000, 44100, 48000, 192000])
    def test_any_rate(self, tmp_path, rate_hz):
        frames = play(write_wav(tmp_path / "A.WAV", SOUND, rate_hz=rate_hz))
        assert {frame.rate_hz for frame in frames} == {float(rate_hz)}
        assert len(frames[0].data) == min(rate_hz // 20, len(SOUND))

    @pytest.mark.parametrize(("channel", "expected"), [(None, [0.25, 0.0]), (0, [0.5, 0.25]), (1, [0.0, -0.25])])
    def test_of_several_channels_one_counts_or_their_mean(self, tmp_path, channel, expected):
        path = write_wav(tmp_path / "a.wav", np.array([[0.5, 0.0], [0.25, -0.25]]))
        assert np.allclose(sound_of(play(path, channel=channel)), expected)

    @pytest.mark.parametrize("codec", ["pcm_u8", "pcm_s16le", "pcm_s24le", "pcm_s32le", "pcm_f32le"])
    def test_what_ffmpeg_writes_to_a_pipe_with_titles_in_front(self, tmp_path, codec):
        require_program("ffmpeg", "apt install ffmpeg")
        source, path = write_wav(tmp_path / "a.wav", 0.5 * SOUND), tmp_path / "b.wav"
        command = ["ffmpeg", "-v", "error", "-i", source, "-metadata", "title=a", "-c:a", codec, "-f", "wav"]
        path.write_bytes(subprocess.run([*command, "-"], check=True, stdout=subprocess.PIPE).stdout)
        assert np.allclose(sound_of(play(path)), 0.5 * SOUND, atol=0.01)


class TestFrames:
    def test_they_are_50_ms_that_go_on_from_each_other_and_the_rest(self, tmp_path):
        frames = play(write_wav(tmp_path / "a.wav", SOUND))
        assert [len(frame.data) for frame in frames] == [800, 800, 400]
        assert [frame.is_first for frame in frames] == [True, False, False]
        assert [frame.position_ns for frame in frames] == [50_000_000, 100_000_000, 125_000_000]
        assert {frame.channels for frame in frames} == {("sound",)}
        assert all(frame.data.dtype == np.float32 and frame.data.flags.c_contiguous for frame in frames)

    def test_over_and_over_each_start_is_a_new_beginning(self, tmp_path):
        source = make_source(FileSource(path=str(write_wav(tmp_path / "a.wav", SOUND)), loop=True, realtime=False))
        source.open(5)
        frames = [source.read() for _ in range(7)]
        source.close()
        assert [frame.is_first for frame in frames] == [True, False, False] * 2 + [True]
        assert [frame.index for frame in frames] == list(range(5, 12))
        assert frames[3].position_ns == 50_000_000

    def test_at_its_own_pace_a_recording_takes_its_time(self, tmp_path):
        start_s = time.monotonic()
        frames = play(write_wav(tmp_path / "a.wav", np.zeros(4800)), realtime=True)
        assert len(frames) == 6
        assert 0.2 < time.monotonic() - start_s < 2.0


class TestTrouble:
    def test_a_file_that_was_cut_off_ends_there(self, tmp_path):
        path = tmp_path / "a.wav"
        path.write_bytes(wav(encode(SOUND, 16), channels=2)[:-3])
        assert len(sound_of(play(path))) == len(SOUND) // 2 - 1

    @pytest.mark.parametrize("size", [0xFFFFFFFF, 0x80000000])
    def test_a_recorder_that_was_killed_leaves_a_size_that_is_not_true(self, tmp_path, size):
        path = tmp_path / "a.wav"
        path.write_bytes(wav(encode(SOUND, 16), size=size))
        assert len(sound_of(play(path))) == len(SOUND)

    def test_other_parts_in_front_of_the_sound_are_skipped(self, tmp_path):
        path = tmp_path / "a.wav"
        path.write_bytes(wav(encode(SOUND, 16), before=b"LIST" + struct.pack("<I", 5) + b"title\0"))
        assert len(sound_of(play(path))) == len(SOUND)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "not a WAV file"),
            (b"RIFF\0\0\0\0AVI LIST", "not a WAV file"),
            (wav(b"")[:20], "a damaged WAV file: it ends too early"),
            (wav(b"")[:40], "there is no sound in it"),
            (b"RIFF\0\0\0\0WAVE" + b"fill\0\0\0\0" * 5000, "there is no sound in it"),
            (wav(b""), "no sound in it"),
            (wav(b"\0"), "no sound in it"),
            (wav(b"\0\0", kind=2, bits=4), "expected PCM of 8, 16, 24 or 32 bits.*format 2 of 4 bits.*ffmpeg"),
            (wav(b"\0\0", bits=12), "expected PCM"),
            (wav(b"\0\0", rate_hz=0), "0 Hz"),
            (wav(b"\0\0", rate_hz=4_000_000_000), "4000000000 Hz"),
            (wav(b"\0\0", channels=0), "0 channels"),
            (wav(b"\0\0", channels=65535), "65535 channels"),
        ],
    )
    def test_what_is_no_sound_can_never_work(self, tmp_path, content, message):
        path = tmp_path / "a.wav"
        path.write_bytes(content)
        with pytest.raises(SourceUnusable, match=message) as caught:
            play(path, loop=True)
        assert str(path) in str(caught.value)

    def test_one_that_is_not_there_can_never_work(self, tmp_path):
        with pytest.raises(SourceUnusable, match=r"missing\.wav: No such file"):
            play(tmp_path / "missing.wav")

    def test_a_channel_that_it_lacks_is_named(self, tmp_path):
        with pytest.raises(SourceUnusable, match="has 1 channels, and channel 1 is wanted"):
            play(write_wav(tmp_path / "a.wav", SOUND), channel=1)

    def test_closed_it_gives_nothing_more(self, tmp_path):
        source = make_source(FileSource(path=str(write_wav(tmp_path / "a.wav", SOUND)), realtime=False))
        source.open()
        source.read()
        source.close()
        source.close()
        with pytest.raises(SourceError, match="closed"):
            source.read()
