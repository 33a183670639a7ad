"""The folder of samples that devices have sent: the files, what was told of them, and what an operator says they show.

{folder}/samples/{device}-{id}.png (or .jpg, .npy) and .json   as they came; the label is written into the .json
{folder}/data                                                 the data set that `learn` makes of those with a label
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from agent.feedback.service import decode_frame
from agent.runtime.files import write_atomic
from agent.runtime.text import one_line
from agent.wire.samples import SampleInfo

MAX_SAMPLE_BYTES = 32 << 20
MAX_LABEL_CHARS = 256
_DEVICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")


class SampleError(Exception):
    """What a device sent is no sample; one line."""


class Refused(Exception):  # noqa: N818 - an answer, not a failure
    """The new model is not better; nothing is pushed. One line."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """One that is there."""

    path: Path
    info: SampleInfo

    @property
    def name(self) -> str:
        """Of its files, without the suffix."""
        return self.path.stem


class Inbox:
    """Reads and writes the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.samples_dir = folder / "samples"

    def take(self, text: str, data: bytes, sender: str) -> tuple[Sample, bool]:
        """Store what came; gives it, and whether it is new. What came before keeps the label that it got here.

        Args:
            text: a SampleInfo as JSON.
            data: the file.
            sender: the device on whose topic it came; it must not speak for others.

        Raises:
            SampleError: it is none.
            OSError: it can't be written.
        """
        if len(data) > MAX_SAMPLE_BYTES:
            raise SampleError(f"larger than {MAX_SAMPLE_BYTES >> 20} MiB")
        try:
            info = msgspec.json.decode(text.encode(), type=SampleInfo)
            decode_frame(info.suffix, data)
        except (ValueError, RecursionError) as exc:  # MsgspecError and UnicodeError are ValueErrors
            raise SampleError(one_line(str(exc), 200)) from exc
        if not _DEVICE.fullmatch(info.device) or sender != info.device:
            raise SampleError(f"device: expected {sender!a}, got {info.device[:70]!a}")
        if not (_is_line(info.predicted) and _is_line(info.label or "")):
            raise SampleError("predicted, label: expected lines of at most 256 characters")
        self.samples_dir.mkdir(parents=True, exist_ok=True)
        sample = Sample(self.samples_dir / f"{info.device}-{info.id}{info.suffix}", info)
        before = self.find(sample.name)
        if before is not None:
            if info.truth is not None and before.info.truth is None:
                self._note(msgspec.structs.replace(before.info, label=info.truth), before.path)
            return before, False
        write_atomic(sample.path, data, mode=0o644)
        self._note(info, sample.path)
        return sample, True

    def all(self) -> Iterator[Sample]:
        """The oldest first. What can't be read is left out."""
        found = [sample for path in self.samples_dir.glob("*.json") if (sample := self.find(path.stem))]
        yield from sorted(found, key=lambda sample: (sample.info.captured_at, sample.name))

    def find(self, name: str) -> Sample | None:
        """By the name of its files."""
        if not re.fullmatch(r"[a-z0-9_-]{1,90}", name):
            return None
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            info = msgspec.json.decode((self.samples_dir / f"{name}.json").read_bytes(), type=SampleInfo)
            path = self.samples_dir / f"{name}{info.suffix}"
            return Sample(path, info) if path.is_file() else None
        return None

    def label(self, sample: Sample, label: str | None) -> None:
        """Say what it shows; None: nobody knows. Raises OSError."""
        self._note(msgspec.structs.replace(sample.info, label=label, is_right=None), sample.path)

    def _note(self, info: SampleInfo, path: Path) -> None:
        write_atomic(path.with_suffix(".json"), msgspec.json.encode(info), mode=0o644)


def _is_line(text: str) -> bool:
    """Fit for a terminal, whoever wrote it."""
    return len(text) <= MAX_LABEL_CHARS and text.isprintable()


def share_of(name: str) -> float:
    """0 to 1, always the same for a sample: which split it goes into."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) / 2**32
