"""Recordings of sound: WAV files.

The standard library's reader refuses what usual programs write (24 bits, several channels, float), depending on the
version of Python; the format is simple enough to be read here.
"""

import struct
import threading
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from agent.capture.frames import Pacer
from agent.capture.sound import MAX_RATE_HZ, chunk_samples, from_pcm, make_sound_frame, to_mono
from agent.config import FileSource
from agent.errors import SourceError, SourceUnusable
from agent.values import Frame, Samples

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_MAX_PARTS = 1000
"""Parts of a file before its sound: pictures, titles, lyrics; more is damage."""
_MAX_CHANNELS = 64


class _Format(NamedTuple):
    rate_hz: int
    channels: int
    bits: int
    is_float: bool

    @property
    def bytes_each(self) -> int:
        """Of one sample of all channels."""
        return self.channels * self.bits // 8


class WavRecording:
    """A WAV file, at its own pace or as fast as it goes, once or over and over.

    `position_ns` is where a chunk ends in the recording, and starts again with it.
    """

    def __init__(self, spec: FileSource) -> None:
        self.name = spec.path
        self.broken = 0
        self._spec = spec
        self._closed = threading.Event()
        self._pacer = Pacer(self._closed)
        self._file: BinaryIO | None = None
        self._format = _Format(0, 1, 16, is_float=False)
        self._start_byte = self._size_bytes = self._done_bytes = 0
        self._played = 0
        self._index = 0

    def open(self, first_index: int = 0) -> None:
        self._index = first_index
        path = Path(self._spec.path)
        try:
            self._file = path.open("rb")
            self._format, self._size_bytes = _read_header(self._file, path.stat().st_size)
            self._start_byte = self._file.tell()
        except OSError as exc:
            raise SourceUnusable(f"{path}: {exc.strerror or exc}") from exc
        except ValueError as exc:
            raise SourceUnusable(f"{path}: {exc}") from exc
        channel = self._spec.channel
        if channel is not None and channel >= self._format.channels:
            raise SourceUnusable(f"{path}: has {self._format.channels} channels, and channel {channel} is wanted")

    def read(self) -> Frame | None:
        is_first = self._done_bytes == 0
        samples = self._next_chunk()
        if len(samples) == 0 and self._spec.loop:
            self._done_bytes, is_first = 0, True
            samples = self._next_chunk()
        if len(samples) == 0:
            if self._done_bytes == 0:  # looping over nothing would spin
                raise SourceUnusable(f"{self.name}: no sound in it")
            return None
        rate_hz = self._format.rate_hz
        self._played += len(samples)
        if self._spec.realtime and not self._pacer.wait(self._played / rate_hz):
            raise SourceError(f"{self.name}: closed")
        position_ns = self._done_bytes // self._format.bytes_each * 1_000_000_000 // rate_hz
        frame = make_sound_frame(samples, self._index, rate_hz, is_first=is_first, position_ns=position_ns)
        self._index += 1
        return frame

    def interrupt(self) -> None:
        self._closed.set()

    def close(self) -> None:
        self._closed.set()
        if self._file is not None:
            self._file.close()
            self._file = None

    def _next_chunk(self) -> Samples:
        """T x 1; nothing at the end."""
        if self._file is None or self._closed.is_set():
            raise SourceError(f"{self.name}: closed")
        form = self._format
        wanted = min(chunk_samples(form.rate_hz) * form.bytes_each, self._size_bytes - self._done_bytes)
        try:
            self._file.seek(self._start_byte + self._done_bytes)
            data = self._file.read(wanted)
        except OSError as exc:
            raise SourceError(f"{self.name}: {exc.strerror or exc}") from exc
        data = data[: len(data) // form.bytes_each * form.bytes_each]  # a file that was cut off ends here
        self._done_bytes += len(data)
        samples = _from_float(data) if form.is_float else from_pcm(data, form.bits)
        return to_mono(samples, form.channels, self._spec.channel)


def _from_float(data: bytes) -> Samples:
    """What is no number is silence, and what is too loud is as loud as can be."""
    samples: Samples = np.nan_to_num(np.frombuffer(data, "<f4").astype(np.float32), nan=0.0)
    return samples.clip(-1.0, 1.0)


def _read_header(file: BinaryIO, file_bytes: int) -> tuple[_Format, int]:
    """Read up to where the sound starts: its format, and how many bytes it has.

    Raises:
        ValueError: it is no WAV file, or of a kind that can't be read.
    """
    riff = file.read(12)
    if riff[:4] != b"RIFF" or riff[8:] != b"WAVE":
        raise ValueError("not a WAV file")
    form = None
    for _ in range(_MAX_PARTS):
        head = file.read(8)
        if len(head) < 8:
            break
        kind, size = struct.unpack("<4sI", head)
        if kind == b"data" and form is not None:
            return form, min(size, max(0, file_bytes - file.tell()))  # a recorder that was killed leaves any size
        if kind == b"fmt " and size >= 16:
            fields = file.read(min(size, 40))
            form = _parse_format(fields)
            size -= len(fields)
        file.seek(size + size % 2, 1)
    raise ValueError("a damaged WAV file: there is no sound in it")


def _parse_format(fields: bytes) -> _Format:
    """Raises ValueError: the file is damaged, or compressed."""
    if len(fields) < 16:
        raise ValueError("a damaged WAV file: it ends too early")
    kind, channels, rate_hz, _, _, bits = struct.unpack("<HHIIHH", fields[:16])
    if kind == _EXTENSIBLE and len(fields) >= 26:
        kind = struct.unpack("<H", fields[24:26])[0]
    if not (kind == _PCM and bits in (8, 16, 24, 32)) and not (kind == _FLOAT and bits == 32):
        raise ValueError(
            f"expected PCM of 8, 16, 24 or 32 bits or float of 32, got format {kind} of {bits} bits; "
            "`ffmpeg -i old.wav -c:a pcm_s16le new.wav` converts it"
        )
    if not 0 < rate_hz <= MAX_RATE_HZ or not 0 < channels <= _MAX_CHANNELS:
        raise ValueError(f"a damaged WAV file: {channels} channels at {rate_hz} Hz")
    return _Format(rate_hz, channels, bits, kind == _FLOAT)
