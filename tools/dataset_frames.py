"""Frames of a recording into folders for a person to look through: what tools/dataset.py makes sets of."""

import re
from collections.abc import Iterator
from pathlib import Path

import cv2
import msgspec

from agent.capture import make_source
from agent.cli.common import ProgressLine
from agent.config import FileSource
from agent.runtime.files import write_atomic
from agent.values import Image
from agent.wire.messages import Result
from tools.picture_set import DataSetError

MAX_LINE_BYTES = 1 << 20
UNSORTED, NOTHING = "unsorted", "nothing"


def collect(recording: Path, answers: Path | None, every_s: float, out: Path) -> dict[str, int]:
    """Write `out/{answer}/{name of the recording}/{frame}.png`; returns how many for each answer.

    Args:
        recording: a video, or a folder of pictures.
        answers: what `edge-agent replay` wrote of it; None: all go into one folder.
        every_s: frames of the recording are at least so far from each other.
        out: a folder with one folder for each class, new or not; what is there stays.

    Raises:
        SourceError: the recording can't be used.
        DataSetError: a line of the answers is none; or frames of another recording of that name are there.
        OSError
    """
    said = None if answers is None else dict(read_answers(answers))
    counts: dict[str, int] = {}
    with ProgressLine("frames") as progress:
        for index, image in frames(recording, every_s):
            answer = UNSORTED if said is None else said.get(index, NOTHING)
            path = out / answer / _plain(recording.stem) / f"{index:06}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            _, png = cv2.imencode(".png", image)
            data = png.tobytes()
            if path.exists() and path.read_bytes() != data:
                raise DataSetError(
                    f"{path}: there already, from another recording called {recording.stem}: rename one of them, "
                    "or choose another --out"
                )
            write_atomic(path, data, mode=0o644)
            counts[answer] = counts.get(answer, 0) + 1
            progress.add()
    return counts


def frames(recording: Path, every_s: float) -> Iterator[tuple[int, Image]]:
    """Number and picture, as `edge-agent replay` counts them. Raises SourceError."""
    source = make_source(FileSource(path=str(recording), realtime=False))
    next_ns = 0
    source.open()
    try:
        while (frame := source.read()) is not None:
            position_ns = frame.position_ns or 0
            if frame.channels:
                raise DataSetError(f"{recording}: it is no video and no folder of pictures")
            if position_ns >= next_ns:
                next_ns = position_ns + round(every_s * 1e9)
                yield frame.index, frame.data  # type: ignore[misc]  # a picture: it has no channels
    finally:
        source.close()


def read_answers(path: Path) -> Iterator[tuple[int, str]]:
    """Frame and the label that the model was surest of. Raises DataSetError, OSError."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES), b""), start=1):
            try:
                result = msgspec.json.decode(line, type=Result)
            except msgspec.MsgspecError as exc:
                raise DataSetError(
                    f"{path}, line {number}: expected a result as `edge-agent replay` writes it"
                ) from exc
            found = result.classes or result.detections or []
            yield result.frame.index, _plain(found[0].label) if found else NOTHING


def _plain(name: str) -> str:
    """As a folder may be called."""
    return re.sub(r"[^\w -]", "_", name)[:60].strip() or "_"
