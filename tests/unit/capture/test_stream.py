"""Streams, as far as no server is needed: secrets stay out of sight. More is in tests/paths/test_stream_faults.py."""

import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.capture.stream import Stream, full_url, shown_url
from agent.config import StreamSource
from agent.errors import SourceError, SourceUnusable

SECRET = "tops3cret"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://cam:554/live/ch0", "rtsp://cam:554/live/ch0"),
        (f"rtsp://admin:{SECRET}@10.0.0.5/live", "rtsp://10.0.0.5/live"),
        (f"rtsp://admin:p@{SECRET}@10.0.0.5/live", "rtsp://10.0.0.5/live"),
        (f"http://cam/video.cgi?user=admin&pwd={SECRET}", "http://cam/video.cgi"),
        (f"rtsp://cam/user=admin&password={SECRET}&channel=1.sdp", "rtsp://cam/user"),
        (f"rtsp://admin:{SECRET}@[fe80::1]:554/live#x", "rtsp://[fe80::1]:554/live"),
    ],
)
def test_messages_show_the_url_without_secrets(url, shown):
    assert shown_url(url) == shown
    assert Stream(StreamSource(url=url)).name == shown


@given(st.text(st.characters(exclude_characters="/?#[]", exclude_categories=["Cs", "Cc"]), min_size=4))
def test_no_password_is_ever_shown(password):
    assert shown_url(f"rtsp://user:{password}@camera.example/") == "rtsp://camera.example/"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rtsp://admin@cam/live?x=1", "rtsp://admin:p%40ss%3Aw%2Frd%25@cam/live?x=1"),
        ("rtsp://admin:old@cam:8554/live", "rtsp://admin:p%40ss%3Aw%2Frd%25@cam:8554/live"),
    ],
)
@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\nsecond line\n"])
def test_the_password_comes_from_the_first_line_of_its_file(tmp_path, url, expected, end):
    path = tmp_path / "password"
    path.write_bytes(b"p@ss:w/rd%" + end.encode())
    assert full_url(StreamSource(url=url, password_file=str(path))) == expected


def test_without_a_file_the_url_stays_as_it_is():
    assert full_url(StreamSource(url="rtsp://a:b@cam/live")) == "rtsp://a:b@cam/live"


def test_a_password_without_a_user_can_never_work(tmp_path):
    spec = StreamSource(url="rtsp://cam/live", password_file=str(tmp_path / "password"))
    with pytest.raises(SourceUnusable, match=r"rtsp://cam/live: password_file needs a user .*rtsp://USER@cam/"):
        full_url(spec)


@pytest.mark.parametrize(("content", "why"), [(None, "No such file or directory"), (b"\xff\xfe", "not UTF-8")])
def test_a_password_file_that_cannot_be_read_is_named(tmp_path, content, why):
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceUnusable, match=f"password_file {path}: {why}"):
        Stream(StreamSource(url="rtsp://admin@cam/live", password_file=str(path))).open()


def test_an_address_that_is_none_can_never_work():
    with pytest.raises(SourceUnusable, match=r"^rtsp://: not a URL: Invalid IPv6 URL$"):
        Stream(StreamSource(url="rtsp://admin:secret@[fe80::1/live")).open()


@pytest.mark.parametrize("scheme", ["rtsp", "http"])
def test_an_error_shows_the_password_nowhere_not_even_in_its_traceback(tmp_path, scheme):
    path = tmp_path / "password"
    path.write_text(SECRET)
    stream = Stream(StreamSource(url=f"{scheme}://admin@127.0.0.1:1/live", password_file=str(path)))
    with pytest.raises(SourceError) as caught:
        stream.open()
    assert str(caught.value) == f"{scheme}://127.0.0.1:1/live: Connection refused"
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
