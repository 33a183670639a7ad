"""The folder of samples: what devices send is stored as it is, or refused in one line."""

import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.sim.bundles import ROOT
from tests.unit.tools.kept import png, told
from tools import feedback
from tools.feedback_inbox import MAX_SAMPLE_BYTES, Inbox, SampleError


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox(tmp_path / "door")


def files(inbox: Inbox) -> list[str]:
    return sorted(path.name for path in inbox.folder.rglob("*"))


def test_is_there_with_its_label_when_it_is_opened_again(inbox: Inbox) -> None:
    for number in (2, 1):
        sample, is_new = inbox.take(told(number), png(number), "cam-1")
        assert is_new
        assert sample.path.read_bytes() == png(number)
    inbox.label(sample, "8")
    assert [(one.name, one.info.truth) for one in Inbox(inbox.folder).all()] == [
        ("cam-1-0000000000000001", "8"),
        ("cam-1-0000000000000002", None),
    ]


def test_what_comes_again_keeps_the_label_that_it_got_here(inbox: Inbox) -> None:
    sample, _ = inbox.take(told(1), png(), "cam-1")
    _, is_new = inbox.take(told(1, label="3"), png(), "cam-1")
    assert not is_new
    assert inbox.find(sample.name).info.truth == "3", "the label was given on the device in between"
    inbox.label(sample, "8")
    inbox.take(told(1, label="3"), png(77), "cam-1")
    assert inbox.find(sample.name).info.truth == "8"
    assert sample.path.read_bytes() == png()


def npy(header: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + data


def huge_png(width_px: int, height_px: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def zipped() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros((3, 3), np.float32))
    return file.getvalue()


JPEG = bytes.fromhex("ffd8ffe000104a46494600010100000100010000")
GOOD = json.loads(told(1))
HOSTILE_TEXTS = {
    "no JSON": "{",
    "nothing": "",
    "a list": "[]",
    "nested": "[" * 100_000,
    "no text": "\udcff",
    "a path as id": told(1, id="../../../../etc/x"),
    "an id with a line break": told(1, id="0" * 16 + "\n"),
    "a path as device": told(1, device="../cam-1"),
    "a dot as device": told(1, device="."),
    "another device": told(1, device="cam-2"),
    "a device with a line break": told(1, device="cam-1\n"),
    "a suffix of its own": told(1, suffix=".py"),
    "a reason of its own": told(1, reasons=["because"]),
    "a label for the terminal": told(1, label="\x1b[2J"),
    "an endless label": told(1, predicted="x" * 1000),
    "a field is missing": json.dumps({key: value for key, value in GOOD.items() if key != "margin"}),
}
HOSTILE_FILES = {
    "nothing": (".png", b""),
    "text": (".png", b"<svg onload=alert(1)>"),
    "half of a picture": (".png", png()[:40]),
    "a JPEG that calls itself PNG": (".png", JPEG),
    "half of a JPEG": (".jpg", JPEG),
    "a picture larger than memory": (".png", huge_png(60_000, 60_000)),
    "a picture larger than a frame may be": (".png", huge_png(9_000, 10)),
    "a file larger than any": (".png", bytes(MAX_SAMPLE_BYTES + 1)),
    "a pickle": (".npy", saved(np.array([{"a": 1}]))),
    "an archive": (".npy", zipped()),
    "doubles": (".npy", saved(np.zeros((3, 3)))),
    "one dimension": (".npy", saved(np.zeros(3, np.float32))),
    "no samples": (".npy", saved(np.zeros((0, 3), np.float32))),
    "an array larger than memory": (".npy", npy("{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999, 9)}")),
    "a header without end": (".npy", npy("'''")),
    "a header that nests": (".npy", npy("(" * 9000)),
}  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_TEXTS.values(), ids=HOSTILE_TEXTS)
def test_what_is_told_wrongly_is_refused_in_a_line(inbox: Inbox, text: str) -> None:
    with pytest.raises(SampleError) as caught:
        inbox.take(text, png(), "cam-1")
    assert 0 < len(str(caught.value)) < 300
    assert str(caught.value).isprintable()
    assert files(inbox) == []


@pytest.mark.parametrize(("suffix", "data"), HOSTILE_FILES.values(), ids=HOSTILE_FILES)
def test_what_is_no_picture_is_refused_in_a_line(inbox: Inbox, suffix: str, data: bytes) -> None:
    with pytest.raises(SampleError) as caught:
        inbox.take(told(1, suffix=suffix), data, "cam-1")
    assert str(caught.value).isprintable()
    assert files(inbox) == []


@pytest.mark.parametrize("name", ["../door", "a/b", "", ".", "cam-1-0000000000000001.png", "x" * 200, "cam\n"])
def test_a_name_never_leads_out_of_the_folder(inbox: Inbox, name: str) -> None:
    inbox.take(told(1), png(), "cam-1")
    assert inbox.find(name) is None


@pytest.fixture
def labelled(inbox: Inbox) -> Inbox:
    for number, label in enumerate(["3", "3", "8", None]):
        inbox.take(told(number, label=label), png(number), "cam-1")
    (inbox.samples_dir / "cam-1-00000000000000ff.json").write_text("{")
    return inbox


def test_status_of_a_folder_that_is_not_there_is_not_all_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert feedback.main(["status", str(tmp_path / "typo")]) == 1
    assert capsys.readouterr().err == f"feedback: {tmp_path / 'typo'}: no such folder; `feedback.py collect` makes it\n"


def test_status_counts(labelled: Inbox, capsys: pytest.CaptureFixture[str]) -> None:
    assert feedback.main(["status", str(labelled.folder)]) == 0
    said = capsys.readouterr().out
    assert "4 samples, 3 with a label; kept because: {'unsure': 4}" in said
    assert "right on 2 of 3 (66.7%)" in said


def test_labels_are_offered_as_the_model_says_them(tmp_path: Path) -> None:
    """Blanks at the end of a line are none of it; the page would refuse such a label."""
    bundle = ROOT / "models" / "digits" / "2026.11.1"
    (tmp_path / "manifest.yaml").write_bytes((bundle / "manifest.yaml").read_bytes())
    (tmp_path / "labels.txt").write_text((bundle / "labels.txt").read_text().replace("\n", " \n"))
    options = feedback.make_parser().parse_args(["label", str(tmp_path), "--model", str(tmp_path), "--labels", "none"])
    assert feedback._labels(options) == [*"0123456789", "none"]


def test_help_teaches_each_step_and_needs_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "tools/feedback.py", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(f"feedback.py {step}" in done.stdout for step in ("collect", "label", "learn", "status"))
    assert "exit codes: 0 done" in done.stdout
