"""A serial port, over pseudo-terminals: lines, silence, garbage, and the plug."""

import math
import termios
from pathlib import Path

import numpy as np
import pytest

from agent.capture import make_source
from agent.capture.lines import MAX_LINE_BYTES
from agent.config import SerialSource
from agent.errors import SourceError, SourceUnusable
from tests.sim.sensors import SerialDevice

OPEN_FILES = Path("/proc/self/fd")


@pytest.fixture
def device():
    made = SerialDevice()
    yield made
    made.unplug()


@pytest.fixture
def opened(device):
    """Open a source of that port; closed at the end."""
    sources = []

    def make(**options):
        options.setdefault("channels", ("t", "h"))
        options.setdefault("read_timeout_s", 0.3)
        source = make_source(SerialSource(device=device.path, **options))
        source._timeout_s = options["read_timeout_s"]
        source.open()
        device.write(b"\n")  # the end of a line that was under way
        sources.append(source)
        return source

    yield make
    for source in sources:
        source.close()


def values(source):
    return source.read().data[0].tolist()


def test_lines_in_json_or_csv_are_readings(device, opened):
    source = opened()
    device.write(b'{"t": 21.5, "h": 40}\r\n{"t": 22}\n')
    assert values(source) == [21.5, 40.0]
    assert np.array_equal(values(source), [22.0, math.nan], equal_nan=True)
    source.close()
    source = opened(format="csv", channels={"h": 2, "t": 0}, delimiter=" ")
    device.write(b"21.5 x 40\n")
    assert values(source) == [40.0, 21.5]


def test_a_header_names_the_columns(device, opened):
    source = opened(format="csv", channels={"t": "temp"})
    device.write(b"1,2\nhum,temp\n40,21.5\n")
    assert values(source) == [21.5]
    assert source.broken == 0


def test_the_first_line_may_lack_its_beginning_and_is_left_out(device):
    source = make_source(SerialSource(device=device.path, format="csv", channels=("t",)))
    source.open()
    device.write(b"1.5\n21.5\n")
    assert values(source) == [21.5]
    source.close()


def test_pieces_of_lines_are_put_together(device, opened):
    source = opened(format="csv")
    for piece in (b"2", b"1.5,", b"4", b"0\n22"):
        device.write(piece)
    assert values(source) == [21.5, 40.0]


def test_garbage_and_over_long_lines_are_counted_and_left_out(device, opened):
    source = opened(read_timeout_s=5.0)
    device.write(b'\xff\xfe\x00garbage\n{"t": "hot"}\n\n{"t": 1}\n')
    assert values(source)[0] == 1.0
    assert source.broken == 2
    sent = 0
    while sent <= MAX_LINE_BYTES:  # a pseudo-terminal takes 4 KiB at a time
        device.write(b"x" * 2048)
        sent += 2048
        source._lines.extend(source._splitter.feed(source._port.read(4096, 5.0)))
    device.write(b'\n{"t": 2}\n')
    assert values(source)[0] == 2.0
    assert source.broken == 3


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"", "no data for 0.3 s"),
        (b"garbage\n" * 3, "no reading for 0.3 s; not JSON"),
        (b'{"x": 1}\n' * 3, "no reading for 0.3 s; no t or h in the lines that came"),
        (b"no end", "no reading for 0.3 s; no line has ended"),
    ],
)
def test_a_port_without_a_reading_in_time_says_what_came_instead(device, opened, sent, reason):
    source = opened()
    device.write(b'{"t": 1}\n')
    source.read()
    device.write(sent)
    with pytest.raises(SourceError) as caught:
        source.read()
    assert str(caught.value) == f"serial port {device.path}: {reason}"


def test_the_plug_that_is_pulled_is_noticed_at_once(device, opened):
    source = opened(read_timeout_s=60.0)
    device.write(b'{"t": 1}\n')
    source.read()
    device.unplug()
    with pytest.raises(SourceError, match="unplugged"):
        source.read()


def test_it_is_raw_at_the_speed_that_was_asked_for(device, opened):
    source = opened(baud=9600)
    mode = termios.tcgetattr(source._port._fd)
    assert mode[4] == mode[5] == termios.B9600
    assert not mode[3] & (termios.ICANON | termios.ECHO)


@pytest.mark.parametrize("path", ["/dev/null", "/nowhere/ttyUSB0", "/etc/hostname"])
def test_what_is_no_serial_port_is_an_error_that_names_it_and_may_pass(path):
    source = make_source(SerialSource(device=path, channels=("t",)))
    with pytest.raises(SourceError, match=f"serial port {path}: ") as caught:
        source.open()
    assert not isinstance(caught.value, SourceUnusable)
    source.close()


def test_a_failed_open_leaves_no_file_open(device):
    before = len(list(OPEN_FILES.iterdir()))
    for _ in range(10):
        source = make_source(SerialSource(device="/dev/null", channels=("t",)))
        with pytest.raises(SourceError):
            source.open()
    assert len(list(OPEN_FILES.iterdir())) == before
