"""Recordings: a video, a picture, or a folder of pictures."""

import re
import threading
from pathlib import Path
from typing import Protocol

import numpy as np

from agent.capture.frames import Pacer, Shot, is_sound, make_frame
from agent.config import FileSource
from agent.errors import SourceError, SourceUnusable
from agent.values import Frame, Image

PICTURE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""What counts as a picture; any other file is tried as a video."""


class Pass(Protocol):
    """A recording once from start to end."""

    @property
    def broken(self) -> int:
        """Pictures that were left out because they were damaged."""
        ...

    def next(self) -> Shot | None:
        """The next sound picture; None at the end."""

    def close(self) -> None:
        """Close the file."""


class Pictures:
    """Pictures in a row, at a given rate. A broken one leaves out its turn."""

    def __init__(self, paths: list[Path], fps: float) -> None:
        self.broken = 0
        self._paths = paths
        self._period_ns = round(1e9 / fps)
        self._turn = 0

    def next(self) -> Shot | None:
        while self._turn < len(self._paths):
            turn, self._turn = self._turn, self._turn + 1
            image = load_picture(self._paths[turn])
            if image is not None:
                return Shot(image, turn * self._period_ns, self._period_ns)
            self.broken += 1
        return None

    def close(self) -> None:
        self._turn = len(self._paths)


class Recording:
    """A recording, at its own pace or as fast as it goes, once or over and over.

    `position_ns` is counted from the start of the recording and starts again with it. Damaged pictures are left out.
    """

    def __init__(self, spec: FileSource) -> None:
        self.name = spec.path
        self.broken = 0
        self._spec = spec
        self._closed = threading.Event()
        self._pacer = Pacer(self._closed)
        self._lock = threading.Lock()  # held while decoding, not while waiting: close() may come from another thread
        self._pass: Pass | None = None
        self._shots_in_pass = 0
        self._broken_before = 0
        self._played_ns = 0
        self._end_of_last_ns = 0
        self._index = 0

    def open(self, first_index: int = 0) -> None:
        self._index = first_index
        self._pass = self._begin()

    def read(self) -> Frame | None:
        with self._lock:
            shot = self._next_shot()
        if shot is None:
            return None
        if self._spec.realtime and not self._pacer.wait((self._played_ns + shot.position_ns) / 1e9):
            raise SourceError(f"{self.name}: closed")
        self._end_of_last_ns = shot.position_ns + shot.duration_ns
        frame = make_frame(shot.image, self._index, position_ns=shot.position_ns)
        self._index += 1
        return frame

    def interrupt(self) -> None:
        self._closed.set()

    def close(self) -> None:
        """Also from another thread: a read that waits for its pace comes back at once."""
        self._closed.set()
        with self._lock:
            if self._pass is not None:
                self._pass.close()
                self._pass = None

    def _next_shot(self) -> Shot | None:
        while True:
            if self._pass is None or self._closed.is_set():
                raise SourceError(f"{self.name}: closed")
            shot = self._pass.next()
            self.broken = self._broken_before + self._pass.broken
            if shot is not None:
                self._shots_in_pass += 1
                return shot
            if self._shots_in_pass == 0:  # looping over nothing would spin
                raise SourceUnusable(f"{self.name}: not one picture in it can be read")
            if not self._spec.loop:
                return None
            self._pass.close()
            self._broken_before = self.broken
            self._played_ns += self._end_of_last_ns
            self._shots_in_pass = 0
            self._pass = self._begin()

    def _begin(self) -> Pass:
        """Open the recording from its start.

        Raises:
            SourceUnusable: nothing is there, or nothing that can be played.
        """
        path = Path(self._spec.path)
        try:
            pictures = list_pictures(path)
            if not path.is_dir():
                path.open("rb").close()  # whatever library comes next: this says in plain words why it can't be read
        except OSError as exc:
            raise SourceUnusable(f"{path}: {exc.strerror or exc}") from exc
        if pictures:
            return Pictures(pictures, self._spec.fps)
        if path.is_dir():
            raise SourceUnusable(f"{path}: no pictures in this folder ({', '.join(sorted(PICTURE_SUFFIXES))})")
        from agent.capture.video import Clip

        return Clip(path)


def list_pictures(path: Path) -> list[Path]:
    """This picture, or those of this folder in the order a person expects: 2.jpg before 10.jpg."""
    files = [path] if not path.is_dir() else [entry for entry in path.iterdir() if entry.is_file()]
    pictures = [file for file in files if file.suffix.lower() in PICTURE_SUFFIXES and not file.name.startswith(".")]
    return sorted(pictures, key=lambda picture: natural_key(picture.name))


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Sorts numbers inside names by value; names that differ only in leading zeros keep a fixed order."""
    parts = re.split("([0-9]+)", name.lower())  # text and digits take turns, so like is compared with like
    return [int(part) if turn % 2 else part for turn, part in enumerate(parts)], name


def load_picture(path: Path) -> Image | None:
    """H x W x 3, BGR, uint8, upright as EXIF says; None when it can't be read, is broken or too large."""
    import cv2

    image: Image | None
    try:
        # Not imread: that takes half a JPEG for a picture.
        image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)  # type: ignore[assignment]
    except (OSError, cv2.error):  # cv2.error: empty, or larger than OpenCV's limits
        return None
    return image if is_sound(image) else None
