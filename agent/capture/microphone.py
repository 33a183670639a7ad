"""A microphone, through ALSA's own `arecord`: it converts rates, and says at once when the device is gone.

(PortAudio's callbacks just stop then, and an ALSA binding for Python would have to be compiled on the device.)
"""

import time
from collections.abc import Mapping

from agent.capture.child import Child
from agent.capture.frames import first_frame_s
from agent.capture.sound import chunk_samples, from_pcm, make_sound_frame, to_mono
from agent.config import MicrophoneSource
from agent.errors import SourceError
from agent.values import Frame

_BYTES_EACH = 2
_PIPE_S = 2
_READ_BYTES = 1 << 16
_MAX_APART_S = 5.0
"""More than the pipe and ALSA's own buffer can hold back."""
_CREEP = 1e-3
"""Clocks of sound devices are right to a tenth of this."""

_MENDS: Mapping[str, str] = {
    "No such file or directory": "`arecord -L` lists the devices",
    "No such device": "it was unplugged; `arecord -L` lists the devices",
    "resource busy": "another program records from it; `fuser -v /dev/snd/*` names it",
    "Permission denied": "put the agent's user into the group audio",
    "Connection refused": "no sound server runs for the agent's user; name a plughw: device of `arecord -L`",
    "non available": "name the device as plughw:, or set another rate_hz or channels",
    "overrun": "sound got lost, because the machine was too busy or the sound server went away",
}
"""Behind what arecord says last."""


class Microphone:
    """One run of arecord. Sound that got lost ends it, so that what follows is known for a new beginning."""

    def __init__(self, spec: MicrophoneSource) -> None:
        self.name = f"microphone {spec.device}"
        self.broken = 0
        self._spec = spec
        self._child = Child(_command(spec), self.name, pipe_bytes=_PIPE_S * spec.rate_hz * spec.channels * _BYTES_EACH)
        self._clock = _SoundClock(spec.rate_hz)
        self._pending = bytearray()
        self._heard_ns = 0
        self._index = 0
        self._is_first = True

    def open(self, first_index: int = 0) -> None:
        self._index = first_index
        self._child.open()

    def read(self) -> Frame | None:
        samples = chunk_samples(self._spec.rate_hz)
        wanted = samples * self._spec.channels * _BYTES_EACH
        while len(self._pending) < wanted:
            self._receive()
        pcm = bytes(self._pending[:wanted])
        del self._pending[:wanted]
        try:
            captured_ns = self._clock.stamp(samples, self._heard_ns)
        except SourceError as exc:
            raise SourceError(f"{self.name}: {exc}") from exc
        frame = make_sound_frame(
            to_mono(from_pcm(pcm, 16), self._spec.channels, self._spec.channel),
            self._index,
            self._spec.rate_hz,
            is_first=self._is_first,
            captured_ns=captured_ns,
        )
        self._index += 1
        self._is_first = False
        return frame

    def interrupt(self) -> None:
        self._child.interrupt()

    def close(self) -> None:
        self._pending.clear()
        self._child.close()

    def _receive(self) -> None:
        timeout_s = self._spec.read_timeout_s
        try:
            self._pending += self._child.read(_READ_BYTES, first_frame_s(timeout_s) if self._is_first else timeout_s)
        except SourceError as exc:
            mend = next((f"; {mend}" for sign, mend in _MENDS.items() if sign in str(exc)), "")
            raise SourceError(f"{exc}{mend}") from exc
        self._heard_ns = time.monotonic_ns()


class _SoundClock:
    """Tells when sound was heard from how much of it there was, and whether it has the rate that was asked for.

    No sample is handed over before it was heard, and samples follow each other evenly: so the earliest of all arrivals
    counts, as if the pipe were always empty.
    """

    def __init__(self, rate_hz: int) -> None:
        self._rate_hz = rate_hz
        self._samples = self._stamp_ns = 0
        self._first_arrival_ns: int | None = None
        self._start_ns = self._latest_start_ns = 0

    def stamp(self, samples: int, arrival_ns: int) -> int:
        """When the last of the next samples was heard, on the monotonic clock.

        Raises:
            SourceError: they come so much faster or slower that their rate must be another.
        """
        self._samples += samples
        creep_ns = round(samples * 1e9 / self._rate_hz * _CREEP)
        bound_ns = arrival_ns - self._samples * 1_000_000_000 // self._rate_hz
        if self._first_arrival_ns is None:
            self._first_arrival_ns, self._start_ns, self._latest_start_ns = arrival_ns, bound_ns, bound_ns
        self._start_ns = min(bound_ns, self._start_ns + creep_ns)
        self._latest_start_ns = max(self._start_ns, self._latest_start_ns - creep_ns)
        if max(bound_ns - self._start_ns, self._latest_start_ns - self._start_ns) > _MAX_APART_S * 1e9:
            rate_hz = (self._samples - samples) * 1e9 / max(1, arrival_ns - self._first_arrival_ns)
            raise SourceError(
                f"gives {rate_hz:.0f} samples a second instead of {self._rate_hz}; name the device as plughw:, "
                "or set the rate_hz that it has"
            )
        self._stamp_ns = max(self._stamp_ns, arrival_ns - bound_ns + self._start_ns)
        return self._stamp_ns


def _command(spec: MicrophoneSource) -> list[str]:
    return [
        "arecord", "--quiet", f"--device={spec.device}", "--file-type=raw", "--format=S16_LE",
        f"--rate={spec.rate_hz}", f"--channels={spec.channels}",
        "--fatal-errors",  # else it goes on after a loss, and says so nowhere but in words
        "--buffer-time=1000000", "--period-time=50000",
    ]  # fmt: skip
