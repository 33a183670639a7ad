"""Recordings: videos, pictures and folders of them, whole and damaged."""

import subprocess
import threading
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.file import Recording, natural_key
from agent.capture.synthetic import picture
from agent.config import FileSource
from agent.errors import SourceError, SourceUnusable
from tests.sim import require_program
from tests.sim.rtsp import CLIP


def play(path, *, first_index=0, most=1000, **options):
    """All frames of a recording, as fast as they come, and how many were broken."""
    source = Recording(FileSource(path=str(path), **{"realtime": False, **options}))
    source.open(first_index)
    frames = []
    while len(frames) < most and (frame := source.read()) is not None:
        frames.append(frame)
    source.close()
    return frames, source.broken


@pytest.fixture
def folder(tmp_path):
    """Twelve pictures, 1.png to 12.png; picture n has the brightness n * 10."""
    for number in range(1, 13):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.full((24, 32, 3), number * 10, np.uint8))
    return tmp_path


def brightness(frames):
    return [round(float(frame.data.mean())) for frame in frames]


def test_the_bundled_clip_has_100_frames_of_a_tenth_of_a_second():
    frames, broken = play(CLIP)
    assert [frame.index for frame in frames] == list(range(100))
    assert [frame.position_ns for frame in frames] == [turn * 100_000_000 for turn in range(100)]
    assert {frame.data.shape for frame in frames} == {(480, 640, 3)}
    assert broken == 0


def test_a_video_shows_the_same_pictures_as_opencv_does():
    frames, _ = play(CLIP)
    other = cv2.VideoCapture(str(CLIP), cv2.CAP_FFMPEG)
    for frame in frames:
        assert cv2.norm(frame.data, other.read()[1], cv2.NORM_L1) / frame.data.size < 1.5
    other.release()


def test_looping_a_video_counts_on_and_starts_the_position_again():
    frames, _ = play(CLIP, loop=True, first_index=10, most=250)
    assert [frame.index for frame in frames] == list(range(10, 260))
    assert [frame.position_ns for frame in frames] == [turn % 100 * 100_000_000 for turn in range(250)]
    assert np.array_equal(frames[3].data, frames[203].data)


def test_pictures_come_in_the_order_a_person_expects_at_the_given_rate(folder):
    frames, broken = play(folder, fps=4.0)
    assert brightness(frames) == [number * 10 for number in range(1, 13)]
    assert [frame.position_ns for frame in frames[:3]] == [0, 250_000_000, 500_000_000]
    assert broken == 0


def test_broken_pictures_leave_out_their_turn_and_are_counted(folder):
    jpeg = cv2.imencode(".jpg", picture(0, 640, 480))[1].tobytes()
    (folder / "2.png").write_bytes(b"no picture")
    (folder / "3.png").write_bytes(b"")
    (folder / "11.png").rename(folder / "11.jpg")
    (folder / "11.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    frames, broken = play(folder, fps=4.0)
    assert brightness(frames) == [10, 40, 50, 60, 70, 80, 90, 100, 120]
    assert [frame.index for frame in frames] == list(range(9))
    assert frames[1].position_ns == 750_000_000
    assert broken == 3


def test_other_files_hidden_files_and_folders_are_no_pictures(folder):
    (folder / "notes.txt").write_text("hello")
    (folder / "._1.png").write_bytes(b"macOS")
    (folder / "more.png").mkdir()
    frames, broken = play(folder)
    assert (len(frames), broken) == (12, 0)


def test_one_picture_is_a_recording_of_one_frame_and_can_be_looped(folder):
    assert brightness(play(folder / "7.png")[0]) == [70]
    assert brightness(play(folder / "7.png", loop=True, most=5)[0]) == [70] * 5


def test_gray_16_bit_and_transparent_pictures_become_bgr(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.full((8, 8), 50, np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((8, 8), 50 * 257, np.uint16))
    cv2.imwrite(str(tmp_path / "3.png"), np.full((8, 8, 4), 50, np.uint8))
    frames, _ = play(tmp_path)
    assert [(frame.data.shape, frame.data.dtype) for frame in frames] == [((8, 8, 3), np.uint8)] * 3
    assert brightness(frames) == [50] * 3


def test_a_phones_clip_stands_upright(tmp_path):
    """Phones store how they were held as a rotation; OpenCV turns such clips too."""
    require_program("ffmpeg", "apt install ffmpeg")
    turned = tmp_path / "turned.mp4"
    command = ["ffmpeg", "-v", "error", "-i", CLIP, "-t", "0.5", "-c", "copy", "-metadata:s:v", "rotate=90", turned]
    subprocess.run(command, check=True)
    frames, _ = play(turned)
    other = cv2.VideoCapture(str(turned), cv2.CAP_FFMPEG)
    image = other.read()[1]
    other.release()
    assert frames[0].data.shape == image.shape == (640, 480, 3)
    assert cv2.norm(frames[0].data, image, cv2.NORM_L1) / image.size < 1.5
    assert frames[0].data.flags.c_contiguous


def test_a_clip_that_was_cut_off_plays_up_to_there(tmp_path):
    whole = tmp_path / "whole.mkv"
    with av.open(str(CLIP)) as source, av.open(str(whole), "w") as target:
        track = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = track
                target.mux(packet)
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    frames, _ = play(cut)
    assert 20 < len(frames) < 80


def test_damaged_packets_of_a_video_are_left_out_and_counted(tmp_path):
    path = tmp_path / "damaged.avi"
    jpegs = [cv2.imencode(".jpg", picture(turn, 64, 48))[1].tobytes() for turn in range(10)]
    jpegs[4] = jpegs[4][:200]
    with av.open(str(path), "w") as target:
        track = target.add_stream("mjpeg", rate=10, options={"huffman": "0"})
        track.width, track.height, track.pix_fmt = 64, 48, "yuvj420p"
        for turn, jpeg in enumerate(jpegs):
            packet = av.Packet(jpeg)
            packet.stream, packet.time_base, packet.pts, packet.dts = track, Fraction(1, 10), turn, turn
            target.mux(packet)
    frames, broken = play(path)
    assert (len(frames), broken) == (9, 1)


@pytest.mark.parametrize("name", ["missing.mp4", "missing", "missing/clip.mp4", "missing.png"])
def test_a_path_where_nothing_is_can_never_work(tmp_path, name):
    with pytest.raises(SourceUnusable, match=f"{name}: No such file or directory"):
        play(tmp_path / name)


def test_a_folder_without_pictures_can_never_work(tmp_path):
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceUnusable, match=f"{tmp_path}: no pictures in this folder"):
        play(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello" * 100])
def test_a_file_that_is_no_video_can_never_work(tmp_path, content):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(SourceUnusable, match=r"clip\.mp4: neither a picture nor a video"):
        play(path)


def test_a_file_with_sound_only_can_never_work(tmp_path):
    path = tmp_path / "sound.wav"
    with av.open(str(path), "w") as target:
        track = target.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        target.mux(track.encode(frame))
    with pytest.raises(SourceUnusable, match=r"sound\.wav: no video in it"):
        play(path)


@pytest.mark.parametrize("loop", [True, False])
def test_a_recording_without_one_readable_picture_can_never_work(tmp_path, loop):
    (tmp_path / "1.jpg").write_bytes(b"hello")
    (tmp_path / "2.jpg").write_bytes(b"hello")
    with pytest.raises(SourceUnusable, match="not one picture in it can be read"):
        play(tmp_path, loop=loop)


def test_a_recording_that_vanishes_while_it_is_looped_says_so(folder):
    source = Recording(FileSource(path=str(folder / "1.png"), loop=True, realtime=False))
    source.open()
    source.read()
    (folder / "1.png").unlink()
    with pytest.raises(SourceUnusable, match="No such file"):
        source.read()


@pytest.mark.parametrize("wake", [Recording.close, Recording.interrupt])
def test_a_read_that_waits_for_its_pace_comes_back_when_another_thread_wakes_it(folder, wake):
    source = Recording(FileSource(path=str(folder), fps=0.001))
    source.open()
    source.read()
    threading.Timer(0.05, wake, [source]).start()
    with pytest.raises(SourceError, match="closed"):
        source.read()
    source.close()


def test_a_recording_keeps_to_its_pace_over_loops(folder, monkeypatch):
    waited_for = []
    monkeypatch.setattr("agent.capture.file.Pacer.wait", lambda self, position_s: waited_for.append(position_s) or True)
    frames, _ = play(folder, realtime=True, loop=True, fps=4.0, most=26)
    assert waited_for == [turn * 0.25 for turn in range(26)]
    assert frames[12].position_ns == 0


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=20))
def test_natural_order_is_the_order_of_the_numbers(numbers):
    names = [f"frame_{number}.png" for number in numbers]
    assert sorted(names, key=natural_key) == [f"frame_{number}.png" for number in sorted(numbers)]


@given(st.lists(st.text(max_size=8), max_size=8))
def test_any_names_can_be_put_in_order(names):
    assert sorted(sorted(names, key=natural_key, reverse=True), key=natural_key) == sorted(names, key=natural_key)
