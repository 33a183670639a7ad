"""Cameras, sensors, recordings and gpsd."""

import json
from typing import Any

import cv2
import numpy as np

from agent.capture.jpeg import decode_jpeg
from agent.capture.lines import LineSplitter
from agent.capture.readings import BadReading, csv_parser, json_parser
from agent.capture.split import JpegSplitter
from agent.capture.table import Table
from agent.capture.wav import WavRecording
from agent.config import CsvSource, FileSource, Gps
from agent.errors import SourceError
from agent.runtime.health import Health
from agent.telemetry import gps
from agent.wire.messages import encode
from tests.fuzz.bench import Target, check_line, written
from tests.sim.bundles import ROOT
from tests.sim.wavs import wav


def jpeg(data: bytes) -> None:
    """A stream in lumps; the first byte says how large they are."""
    splitter, size = JpegSplitter(), (data[0] if data else 0) * 16 + 1
    for at in range(1, len(data), size):
        for picture in splitter.feed(data[at : at + size]):
            assert picture[:2] == b"\xff\xd8"
            decode_jpeg(picture)
    decode_jpeg(data[1:])


def lines(data: bytes) -> None:
    """A program or a serial port: each line is a reading, or a broken one."""
    splitter, size = LineSplitter(), (data[0] if data else 0) * 16 + 1
    parsers = (
        json_parser({"t": "a.b.0", "u": "u", "v": ""}),
        csv_parser({"t": 0, "u": 2}, ","),
        csv_parser({"t": "temp", "u": "hum"}, ";"),
    )
    for at in range(1, len(data), size):
        for line in splitter.feed(data[at : at + size]):
            for parser in parsers if line is not None else ():
                try:
                    np.array(parser(line) or [], np.float32)
                except BadReading as exc:
                    check_line(str(exc))


def table(data: bytes) -> None:
    spec = CsvSource(
        path=str(written("table.csv", data)), realtime=False, time_column="t" if data[:1] == b"t" else None
    )
    _read_through(Table(spec))


def sound(data: bytes) -> None:
    _read_through(WavRecording(FileSource(path=str(written("sound.wav", data)), realtime=False)))


def _read_through(source: Any) -> None:
    try:
        source.open()
        while (frame := source.read()) is not None:
            assert frame.data.dtype == np.float32
            assert frame.data.ndim == 2
    finally:
        source.close()


def gpsd(data: bytes) -> None:
    reader = gps.GpsReader(Gps(), Health())
    for line in data.split(b"\n"):
        reader._take(gps._parse(line))
        if position := reader.current():
            found = json.loads(encode(position))
            assert abs(found["lat_deg"]) <= 90
            assert abs(found["lon_deg"]) <= 180


def _pictures() -> list[bytes]:
    rng = np.random.default_rng(1)
    picture = cv2.resize(rng.integers(0, 255, (6, 8, 3), np.uint8), (64, 48))
    options = ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_RST_INTERVAL, 2])
    whole = [cv2.imencode(".jpg", picture, more)[1].tobytes() for more in options]
    return [b"\x08" + one for one in (*whole, b"hello" + whole[0] + whole[0][:300] + whole[2])]


def _swing() -> bytes:
    text = (ROOT / "agent" / "demo" / "swing.csv").read_bytes().splitlines(keepends=True)
    return b"".join(text[:40])


_LINES = b'\x04{"a":{"b":[1.5]},"u":2,"v":null}\n1,2,3\ntemp;hum\n20.5;40\n'
_SAID = (
    b'{"class":"VERSION","release":"3.25"}\n'
    b'{"class":"TPV","device":"/dev/a","mode":3,"lat":48.1,"lon":11.5,"altMSL":519.0,"eph":4.2,"speed":1.5,"track":271}\n'
    b'{"class":"SKY","device":"/dev/a","uSat":7,"satellites":[]}\n{"class":"DEVICES","devices":[{"path":"/dev/a"}]}'
)


TARGETS = {
    "jpeg": Target(jpeg, (), _pictures),
    "lines": Target(lines, (), lambda: [_LINES]),
    "table": Target(table, (SourceError,), lambda: [_swing(), b't,a\n2026-11-22T08:00:00Z,1\n3,"2"\n']),
    "sound": Target(sound, (SourceError,), lambda: [wav(bytes(400)), wav(bytes(600), channels=2, bits=24)]),
    "gpsd": Target(gpsd, (gps.GpsLost,), lambda: [_SAID]),
}
