"""A microphone on a real sound driver: what is played into the loopback is what the microphone hears."""

import subprocess
import time
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from agent.capture import FrameSource, make_source
from agent.config import MicrophoneSource
from agent.errors import SourceError
from tests.drivers.conftest import load

RATE_HZ, TONE_HZ = 16_000, 1_000
LOST_WITHIN_S, BACK_WITHIN_S = 2.0, 3.0
DRIVER, NAME = Path("/sys/bus/platform/drivers/snd_aloop"), "snd_aloop.0"


@pytest.fixture(scope="module", autouse=True)
def _driver() -> None:
    load("snd-aloop", id="Loopback")


@pytest.fixture
def tone(tmp_path: Path) -> Path:
    """A minute of one tone."""
    samples = 16_000 * np.sin(2 * np.pi * TONE_HZ * np.arange(60 * RATE_HZ) / RATE_HZ)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE_HZ)
        file.writeframes(samples.astype("<i2").tobytes())
    return tmp_path / "tone.wav"


def play(path: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(["aplay", "--quiet", "--device=plughw:Loopback,0", str(path)], stderr=subprocess.DEVNULL)


def make_microphone() -> FrameSource:
    return make_source(MicrophoneSource(device="plughw:Loopback,1", rate_hz=RATE_HZ, read_timeout_s=2.0))


@pytest.fixture
def microphone(tone: Path) -> Iterator[FrameSource]:
    """One that hears the tone."""
    player = play(tone)
    source = make_microphone()
    source.open()
    yield source
    source.close()
    player.kill()
    player.wait()


def loudest_hz(source: FrameSource, seconds: float = 1.0) -> float:
    """Read so much sound; gives the frequency of what is strongest in it."""
    heard: list[float] = []
    while len(heard) < seconds * RATE_HZ:
        frame = source.read()
        assert frame is not None
        heard += frame.data[:, 0].tolist()
    return float(np.abs(np.fft.rfft(heard)).argmax()) * RATE_HZ / len(heard)


def read_on(source: FrameSource) -> None:
    """Read until it is lost."""
    while source.read() is not None:
        pass


def test_what_is_played_is_heard(microphone: FrameSource) -> None:
    loudest_hz(microphone)  # the player may have begun late
    assert loudest_hz(microphone) == pytest.approx(TONE_HZ, abs=2.0)


def test_an_unplugged_microphone_is_lost_at_once_and_heard_again(microphone: FrameSource, tone: Path) -> None:
    loudest_hz(microphone)
    (DRIVER / "unbind").write_text(NAME)
    unplugged_s = time.monotonic()
    with pytest.raises(SourceError, match="unplugged"):
        read_on(microphone)
    assert time.monotonic() - unplugged_s < LOST_WITHIN_S
    microphone.close()
    (DRIVER / "bind").write_text(NAME)
    plugged_s = time.monotonic()
    player = play(tone)
    again = make_microphone()
    again.open()
    assert again.read() is not None
    assert time.monotonic() - plugged_s < BACK_WITHIN_S
    again.close()
    player.kill()
    player.wait()
