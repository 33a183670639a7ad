"""The labelling page over real HTTP, as a browser would ask."""

import io
import json
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np
import pytest

from tests.unit.tools.kept import png, told
from tools.feedback_inbox import Inbox
from tools.feedback_page import MAX_BODY_BYTES, PLOT_WH, Page, keys_of, make_server

FIRST, SECOND = "cam-1-0000000000000001", "cam-1-0000000000000002"


class Browser:
    """Knows the token, unless told another."""

    def __init__(self, inbox: Inbox, port: int, token: str) -> None:
        self.inbox, self.token = inbox, token
        self._port = port

    def ask(
        self, method: str, path: str, body: bytes | None = None, token: str | None = None, **headers: str
    ) -> tuple[int, str, bytes]:
        """Status, content type, body."""
        connection = HTTPConnection("127.0.0.1", self._port, timeout=20)
        try:
            query = f"?token={quote(self.token if token is None else token)}"
            connection.request(method, path + query, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.getheader("Content-Type", ""), answer.read()
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        return json.loads(self.ask("GET", "/state")[2])

    def send(self, path: str, name: str, label: str | None = None) -> dict[str, Any]:
        status, _, body = self.ask("POST", path, json.dumps({"name": name, "label": label}).encode())
        assert status == 200
        return json.loads(body)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Two samples, and a page with two labels."""
    inbox = Inbox(tmp_path)
    for number in (1, 2):
        inbox.take(told(number), png(number), "cam-1")
    page = Page(inbox, ["3", "8"])
    with make_server(page, 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield Browser(inbox, server.server_address[1], page.token)
        server.shutdown()
        thread.join(20)


def test_one_sample_after_the_other_and_labels_are_on_the_disk_at_once(browser: Browser) -> None:
    state = browser.state()
    assert (state["sample"]["name"], state["done"], state["all"]) == (FIRST, 0, 2)
    assert state["labels"] == [{"label": "3", "key": "3"}, {"label": "8", "key": "8"}]
    state = browser.send("/label", FIRST, "8")
    assert browser.inbox.find(FIRST).info.truth == "8"
    assert (state["sample"]["name"], state["done"], state["counts"]) == (SECOND, 1, {"8": 1})
    state = browser.send("/label", SECOND, "cow")
    assert state["sample"] is None
    assert {"label": "cow", "key": "1"} in state["labels"], "a label that was typed is offered from then on"


def test_skip_and_undo(browser: Browser) -> None:
    state = browser.send("/label", FIRST)
    assert (state["sample"]["name"], state["skipped"], state["done"]) == (SECOND, 1, 0)
    assert browser.send("/undo", FIRST)["sample"]["name"] == FIRST
    browser.send("/label", FIRST, "8")
    assert browser.send("/undo", FIRST)["sample"]["name"] == FIRST
    assert browser.inbox.find(FIRST).info.truth is None


def test_pictures_come_as_they_are_and_samples_as_a_drawing(browser: Browser) -> None:
    assert browser.ask("GET", f"/picture/{FIRST}") == (200, "image/png", png(1))
    file = io.BytesIO()
    np.save(file, np.array([[0.0, np.nan], [1.0, np.inf]] * 50, np.float32))
    browser.inbox.take(told(3, suffix=".npy"), file.getvalue(), "cam-1")
    status, kind, data = browser.ask("GET", "/picture/cam-1-0000000000000003")
    assert (status, kind) == (200, "image/png")
    drawing = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert drawing.shape[1::-1] == PLOT_WH
    assert (drawing < 255).any(), "there are lines"


@pytest.mark.parametrize("token", ["", "wrong", "é", "x" * 10_000])
def test_without_the_token_nothing_is_seen_and_nothing_taken(browser: Browser, token: str) -> None:
    body = json.dumps({"name": FIRST, "label": "8"}).encode()
    assert browser.ask("POST", "/label", body, token=token)[0] == 403
    assert browser.ask("GET", "/state", token=token)[0] == 403
    assert browser.ask("GET", f"/picture/{FIRST}", token=token)[0] == 403
    assert browser.ask("GET", "/", token=token)[0] == 200, "the page itself tells nothing"
    assert browser.inbox.find(FIRST).info.truth is None


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"[]", b"null", b"\xff", b"[" * 3000, b'{"label":"8"}', b'{"name":7}', b'{"name":"x","label":7}',
        json.dumps({"name": FIRST, "label": ""}).encode(), json.dumps({"name": FIRST, "label": "a\nb"}).encode(),
        json.dumps({"name": FIRST, "label": "x" * 101}).encode(), b" " * (MAX_BODY_BYTES + 1),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(browser: Browser, body: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    assert browser.ask("POST", "/label", body)[0] == 400
    assert browser.inbox.find(FIRST).info.truth is None
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("length", ["x", "-1", "99999999999"])
def test_a_length_that_is_none_is_refused(browser: Browser, length: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert browser.ask("POST", "/label", b"{}", **{"Content-Length": length})[0] == 400
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("name", ["nobody", "../../etc/passwd", "", "cam-1-00000000000000ff"])
def test_unknown_names_are_not_found(browser: Browser, name: str) -> None:
    body = json.dumps({"name": name, "label": "8"}).encode()
    assert browser.ask("POST", "/label", body)[0] == 404
    assert browser.ask("POST", "/undo", body)[0] == 404
    assert browser.ask("GET", f"/picture/{name}")[0] == 404
    assert browser.ask("GET", f"/{name}x")[0] == 404


def test_keys_are_what_one_would_press() -> None:
    assert keys_of(["cat", "dog", "2"]) == ["1", "3", "2"]
    assert keys_of(["p", "s"]) == ["1", "2"], "p: the model is right; s: skip"
    many = keys_of([str(number) for number in range(100)])
    assert many[:11] == [*"0123456789", "a"]
    assert many[-1] == "", "there are buttons for all"
