"""Lines that a program writes."""

import sys

import pytest

from agent.capture import make_source
from agent.config import ExecSource
from agent.errors import SourceError


@pytest.fixture
def opened():
    sources = []

    def make(code, **options):
        options.setdefault("output", "json")
        options.setdefault("channels", {"t": "sensor.t"})
        source = make_source(ExecSource(command=(sys.executable, "-c", code), **options))
        source.open()
        sources.append(source)
        return source

    yield make
    for source in sources:
        source.close()


def test_each_line_is_a_reading_from_the_first_on(opened):
    source = opened('for t in (1, 2.5): print(\'{"sensor": {"t": %s}}\' % t)')
    assert [source.read().data.tolist() for _ in range(2)] == [[[1.0]], [[2.5]]]
    with pytest.raises(SourceError, match=r"^exec python.*: .* ended with exit status 0"):
        source.read()


def test_csv_too(opened):
    source = opened("print('time;t'); print('x;4')", output="csv", channels={"t": "t"}, delimiter=";")
    assert source.read().data.tolist() == [[4.0]]


def test_a_program_that_talks_of_other_things_is_given_up_with_what_is_wrong(opened):
    source = opened("import time\nwhile True: print('{\"t\": 1}', flush=True); time.sleep(0.02)", read_timeout_s=0.2)
    source._index += 1  # not the first, which may take longer
    with pytest.raises(SourceError, match=r"no reading for 0\.2 s; no t in the lines that came"):
        source.read()


def test_a_flood_of_other_things_is_given_up_in_time_too(opened):
    source = opened("while True: print('x' * 1000)", read_timeout_s=0.2)
    source._index += 1
    with pytest.raises(SourceError, match=r"no reading for 0\.2 s; not JSON"):
        source.read()


def test_what_the_program_complains_of_is_told(opened):
    source = opened("import sys; sys.exit('no sensor on the bus')")
    with pytest.raises(SourceError, match="no sensor on the bus"):
        source.read()
