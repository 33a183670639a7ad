"""Readings out of JSON and CSV: right ones, missing values, and everything else."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.capture.lines import MAX_LINE_BYTES, LineSplitter
from agent.capture.readings import BadReading, csv_parser, json_parser, make_reading, named, parse_number, split_csv

NAN = math.nan
unhurried = settings(deadline=None)  # the machine may be busy
names = st.text(st.characters(codec="utf-8", exclude_characters="."), min_size=1, max_size=8)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def same(found, expected) -> bool:
    return found is expected or np.array_equal(found, expected, equal_nan=True)


class TestJson:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (b'{"t": 21.5, "air": {"h": 40}}', [21.5, 40.0]),
            (b' {"air": {"h": 40, "x": "y"}, "other": []}\r', [NAN, 40.0]),
            (b'{"t": true, "air": {"h": false}}', [1.0, 0.0]),
            (b'{"t": null, "air": {"h": 1}}', [NAN, 1.0]),
            (b'{"t": 1, "air": 7}', [1.0, NAN]),
            (b'{"t": null}', None),
            (b'{"linkquality": 120}', None),
            (b"[1, 2]", None),
            (b"5", None),
        ],
    )
    def test_channels_are_at_their_paths_and_what_is_not_there_is_missing(self, line, expected):
        assert same(json_parser({"t": "t", "h": "air.h"})(line), expected)

    def test_a_path_may_lead_through_a_list_and_no_path_is_all_of_it(self):
        assert json_parser({"b": "values.1"})(b'{"values": [1, 2]}') == [2.0]
        assert json_parser({"b": "values.2"})(b'{"values": [1, 2]}') is None
        assert json_parser({"b": 1})(b"[1, 2]") == [2.0]
        assert json_parser({"all": ""})(b"-3.5e1") == [-35.0]

    @pytest.mark.parametrize(
        "line",
        [
            b"", b"{", b'{"t": NaN}', b'{"t": Infinity}', b'{"t": 1e39}', b'{"t": 1e999}', b'{"t": 1%d}' % 10**400,
            b'{"t": "21.5"}', b'{"t": [1]}', b'{"t": {}}', b'{"t": 1} x', b"\xff\xfe", b"\0", b'{"t": "\xff"}',
            b"[" * 60_000, b'{"t":' * 10_000, b'{"t": 021}', b"t=21",
        ],
    )  # fmt: skip
    def test_anything_else_is_broken(self, line):
        with pytest.raises(BadReading):
            json_parser({"t": "t"})(line)

    @unhurried
    @given(anything)
    def test_any_document_gives_finite_float32_or_missing_values_or_is_broken(self, document):
        line = json.dumps(document).encode()
        try:
            found = json_parser({"a": "", "b": "b.0", "c": "0"})(line)
        except BadReading:
            return
        if found is not None:
            assert len(found) == 3
            frame = make_reading(found, ("a", "b", "c"), 0, is_first=False)
            assert not np.isinf(frame.data).any()
            assert not np.isnan(frame.data).all()

    @unhurried
    @given(st.dictionaries(names, st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
    def test_what_a_device_wrote_is_what_is_read(self, values):
        parse = json_parser(named(tuple(values), by_column=False))
        assert parse(json.dumps({"more": "text"} | values).encode()) == list(values.values())

    @unhurried
    @given(st.binary(max_size=200))
    def test_no_bytes_do_harm(self, line):
        for parse in (json_parser({"t": "t"}), csv_parser({"t": 0}, ","), csv_parser({"t": "t"}, ",")):
            try:
                assert parse(line) is None or line
            except BadReading:
                pass


class TestCsv:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            (b"21.5,40", [21.5, 40.0]),
            (b" 21.5 , +4e1 ,more,columns", [21.5, 40.0]),
            (b'"21.5",".5"', [21.5, 0.5]),
            (b"21.,", [21.0, NAN]),
            (b",", None),
        ],
    )
    def test_channels_are_in_their_columns_and_an_empty_cell_is_missing(self, line, expected):
        assert same(csv_parser({"t": 0, "h": 1}, ",")(line), expected)

    @pytest.mark.parametrize(
        "line",
        [
            b"21.5", b"x,1", b"nan,1", b"inf,1", b"1_0,1", b"0x10,1", b"1e39,1", b"1" * 65 + b",1", b'"1,2', b"\xff,1",
            "٣,1".encode(), b"1,2" + b",3" * 1024,
        ],
    )  # fmt: skip
    def test_anything_else_is_broken(self, line):
        with pytest.raises(BadReading):
            csv_parser({"t": 0, "h": 1}, ",")(line)

    def test_with_headers_lines_before_the_header_are_skipped_and_a_new_one_may_come(self):
        parse = csv_parser({"t": "temp", "h": "hum"}, ";")
        lines = [b"1;2", b"boot ok", b"hum;temp", b"40;21", b"temp;x;hum", b"22;0;41"]
        assert [parse(line) for line in lines] == [None, None, None, [21.0, 40.0], None, [22.0, 41.0]]

    @pytest.mark.parametrize(("delimiter", "line"), [("\t", b"1\t2"), (" ", b"1 2"), (";", b"1;2")])
    def test_the_delimiter_may_be_another(self, delimiter, line):
        assert csv_parser({"a": 0, "b": 1}, delimiter)(line) == [1.0, 2.0]

    @unhurried
    @given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
    def test_what_a_device_wrote_is_what_is_read(self, values):
        parse = csv_parser(named(tuple(map(str, range(len(values)))), by_column=True), ",")
        assert parse(",".join(map(repr, values)).encode()) == values

    @unhurried
    @given(st.text(max_size=20))
    def test_a_number_is_finite_or_missing_or_none(self, text):
        try:
            assert not math.isinf(parse_number(text))
        except BadReading:
            assert text.strip()

    @unhurried
    @given(st.lists(st.text("ab12.\"' ", max_size=5), min_size=1, max_size=5), st.sampled_from(",;:|/\t"))
    def test_quoted_cells_come_back_without_their_quotes(self, cells, delimiter):
        quoted = delimiter.join('"' + cell.replace('"', '""') + '"' for cell in cells)
        assert split_csv(quoted.encode(), delimiter) == [cell.strip() for cell in cells]


class TestLines:
    def test_lines_come_when_they_are_complete_whatever_the_pieces(self):
        splitter = LineSplitter()
        assert splitter.feed(b"one\ntw") == [b"one"]
        assert splitter.feed(b"") == []
        assert splitter.feed(b"o\r\n\nthree") == [b"two", b""]
        assert splitter.feed(b"\n") == [b"three"]

    def test_one_that_joins_late_leaves_out_the_first_line_which_may_lack_its_beginning(self):
        splitter = LineSplitter(joins_late=True)
        assert splitter.feed(b"1.5,2") == []
        assert splitter.feed(b"2\n21.5,22\n") == [b"21.5,22"]

    def test_a_line_that_is_too_long_costs_itself_and_no_memory(self):
        splitter = LineSplitter()
        found = [line for _ in range(1000) for line in splitter.feed(b"x" * 1000)]
        assert found == [None]
        assert len(splitter._rest) <= MAX_LINE_BYTES
        assert splitter.feed(b"tail\nnext\n") == [b"next"]
        assert splitter.feed(b"x" * (MAX_LINE_BYTES + 1) + b"\nok\n") == [None, b"ok"]
        assert splitter.feed(b"x" * MAX_LINE_BYTES + b"\n") == [b"x" * MAX_LINE_BYTES]

    @unhurried
    @given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
    def test_any_cut_gives_the_same_lines(self, data, cuts):
        splitter, found = LineSplitter(), []
        edges = [0, *sorted(cuts), len(data)]
        for start, end in itertools.pairwise(edges):
            found += splitter.feed(data[start:end])
        assert found == [line.removesuffix(b"\r") for line in data.split(b"\n")[:-1]]
