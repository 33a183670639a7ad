"""A data set of pictures with boxes: a folder with the pictures and `annotations.json`, in COCO's format for detection.

    {"images": [{"id": 1, "file_name": "pictures/0001.jpg", "width": 640, "height": 480, "split": "test"}],
     "categories": [{"id": 1, "name": "face"}],
     "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [left, top, width, height], "iscrowd": 0}]}

As labelling programs export it: `file_name` is a path below the folder, other keys do not matter. `split` is ours; a
picture without one is in every split. Names of categories are what the model's labels are compared with.
"""

import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from agent.errors import DataSetError
from agent.evaluation.picture_set import is_label
from agent.inference.golden import load_picture
from agent.values import Image

ANNOTATIONS = "annotations.json"
MAX_ANNOTATIONS_BYTES = 256 << 20

_Pixels = Annotated[float, Meta(ge=-1e6, le=1e6)]
_Size = Annotated[float, Meta(ge=0.0, le=1e6)]


class _Image(msgspec.Struct):
    id: int
    file_name: Annotated[str, Meta(min_length=1)]
    width: Annotated[int, Meta(ge=1)] | None = None
    height: Annotated[int, Meta(ge=1)] | None = None
    split: str | None = None


class _Category(msgspec.Struct):
    id: int
    name: str


class _Annotation(msgspec.Struct):
    image_id: int
    category_id: int
    bbox: tuple[_Pixels, _Pixels, _Size, _Size]
    iscrowd: Annotated[int, Meta(ge=0, le=1)] = 0


class _Document(msgspec.Struct):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


class LabelledBox(NamedTuple):
    """One object, or many of a class as one box."""

    label: str
    xywh: tuple[float, float, float, float]
    """Left, top, width, height, in pixels."""
    is_crowd: bool


class LabelledPicture(NamedTuple):
    """A picture and all that it shows of the set's classes."""

    path: str
    """Below the folder, with slashes."""
    size_px: tuple[int, int] | None
    """Width and height, where the file tells it."""
    split: str | None
    """None: in every split."""
    boxes: tuple[LabelledBox, ...]


@dataclass(frozen=True, slots=True)
class BoxSet:
    """A data set whose annotations are sound; its pictures are looked at when they are read."""

    folder: Path
    pictures: tuple[LabelledPicture, ...]
    """By their id."""
    labels: tuple[str, ...]
    """Of all categories, in the order of their ids."""
    sha256: str
    """Of the annotations."""

    def of(self, split: str) -> list[LabelledPicture]:
        """The pictures of a split. Raises DataSetError: there is none."""
        found = [one for one in self.pictures if one.split in (None, split)]
        if not found:
            raise DataSetError(f"{self.folder / ANNOTATIONS}: no picture is in split {split}: choose another --split")
        return found

    def picture(self, one: LabelledPicture) -> Image:
        """H x W x 3 BGR, as the agent reads it.

        Raises:
            ModelError: it is missing, too large or no picture.
            DataSetError: it has another size than where its boxes were drawn.
        """
        image = load_picture(self.folder / one.path)
        height, width = image.shape[:2]
        if one.size_px is not None and one.size_px != (width, height):
            expected = "x".join(map(str, one.size_px))
            raise DataSetError(
                f"{self.folder / one.path}: {width}x{height} px, but {ANNOTATIONS} says {expected}: its boxes are off"
            )
        return image


def load_boxes(folder: Path) -> BoxSet:
    """Read and check the annotations. Raises DataSetError."""
    path = folder / ANNOTATIONS
    data = _read(path)
    try:
        document = msgspec.json.decode(data, type=_Document)
    except msgspec.MsgspecError as exc:
        raise DataSetError(f"{path}: {str(exc)[:300]}; expected COCO's format for boxes, see docs/learning.md") from exc
    names = {one.id: one.name for one in document.categories}
    images = {one.id: one for one in document.images}
    if len(names) != len(document.categories) or len(images) != len(document.images):
        raise DataSetError(f"{path}: two images or categories have the same id")
    if strange := [name for name in names.values() if not is_label(name)]:
        raise DataSetError(f"{path}: categories: expected short lines of text as names, got {strange[0][:60]!r}")
    boxes: dict[int, list[LabelledBox]] = defaultdict(list)
    for number, one in enumerate(document.annotations):
        if one.image_id not in images or one.category_id not in names:
            raise DataSetError(f"{path}: annotations[{number}]: there is no such image_id or category_id")
        boxes[one.image_id].append(LabelledBox(names[one.category_id], one.bbox, bool(one.iscrowd)))
    pictures = tuple(_picture(path, images[key], boxes[key]) for key in sorted(images))
    labels = tuple(dict.fromkeys(names[key] for key in sorted(names)))
    return BoxSet(folder, pictures, labels, hashlib.sha256(data).hexdigest())


def _picture(path: Path, one: _Image, boxes: list[LabelledBox]) -> LabelledPicture:
    inside = PurePosixPath(one.file_name)
    if inside.is_absolute() or ".." in inside.parts or not inside.parts:
        raise DataSetError(f"{path}: image {one.id}: file_name: expected a path inside the folder, got {inside}")
    size_px = (one.width, one.height) if one.width and one.height else None
    return LabelledPicture(one.file_name, size_px, one.split, tuple(boxes))


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_ANNOTATIONS_BYTES:
            raise DataSetError(f"{path}: larger than {MAX_ANNOTATIONS_BYTES >> 20} MiB")
        return path.read_bytes()
    except OSError as exc:
        mend = "a model that finds boxes is measured on a folder of pictures with COCO annotations"
        raise DataSetError(f"{path}: {(exc.strerror or str(exc)).lower()}; {mend}") from exc
