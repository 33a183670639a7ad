"""tools/dataset.py frames: pictures out of a recording, sorted by what `edge-agent replay` says of them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from agent.evaluation.picture_set import load_set
from tests.sim.agent import CLIP
from tests.sim.bundles import OWN, ROOT
from tools.dataset import main

DIGITS = ROOT / "tests" / "golden" / "digits"


def replayed(tmp_path: Path, recording: Path) -> Path:
    """What the digits model says of it, as the command writes it."""
    pipeline = {"name": "pen", "model": "digits", "source": {"type": "file", "path": str(recording)}}
    config = {"device": {"id": "desk"}, "models": {"dir": str(OWN)}, "pipelines": [pipeline]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    arguments = ["replay", "--source", str(recording), "--out", "answers.jsonl"]
    command = [sys.executable, "-m", "agent", *arguments]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=60, check=True)
    return tmp_path / "answers.jsonl"


def test_what_was_replayed_becomes_a_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = tmp_path / "desk"
    shutil.copytree(DIGITS, recording)
    answers, out = replayed(tmp_path, recording), tmp_path / "sorted"
    arguments = ["frames", str(recording), "--answers", str(answers), "--every-s", "0.1", "--out", str(out)]
    assert main(arguments) == 0
    names = {path.name: path for path in out.rglob("*.png")}
    assert len(names) == 20
    right = [names[f"{index:06}.png"].parts[-3] == path.name[0] for index, path in enumerate(sorted(DIGITS.glob("*")))]
    assert sum(right) >= 19
    assert "desk" in {path.parent.name for path in names.values()}
    assert main(["folder", str(out), "--out", str(tmp_path / "set")]) == 0
    assert len(load_set(tmp_path / "set").entries) == 20
    capsys.readouterr()


def test_frames_of_a_video_without_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["frames", str(CLIP), "--every-s", "2", "--out", str(tmp_path / "sorted")]) == 0
    found = sorted((tmp_path / "sorted" / "unsorted" / CLIP.stem).glob("*.png"))
    assert [int(path.stem) for path in found] == [0, 20, 40, 60, 80]
    assert "5 unsorted" in capsys.readouterr().out


def test_two_recordings_of_the_same_name_do_not_overwrite_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recordings = [tmp_path / camera / "monday" for camera in ("north", "south")]
    for recording, picture in zip(recordings, sorted(DIGITS.glob("*.png")), strict=False):
        recording.mkdir(parents=True)
        shutil.copy(picture, recording)
    out = tmp_path / "sorted"
    assert main(["frames", str(recordings[0]), "--out", str(out)]) == 0
    (before,) = (path.read_bytes() for path in out.rglob("*.png"))
    assert main(["frames", str(recordings[0]), "--out", str(out)]) == 0, "the same again is no harm"
    assert main(["frames", str(recordings[1]), "--out", str(out)]) == 1
    assert "there already, from another recording called monday" in capsys.readouterr().err
    assert [path.read_bytes() for path in out.rglob("*.png")] == [before]


def test_what_is_no_recording(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "answers.jsonl").write_text('{"schema": "edge.event/1"}\n')
    for arguments, message in (
        ([str(tmp_path / "no.mp4")], "no.mp4"),
        ([str(CLIP), "--answers", str(tmp_path / "answers.jsonl")], "answers.jsonl, line 1: expected a result as"),
    ):
        assert main(["frames", *arguments, "--out", str(tmp_path / "sorted")]) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "sorted").exists()
