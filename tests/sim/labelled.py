"""Data sets of real pictures with labelled boxes, and what pycocotools' format for them looks like."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.sim.bundles import picture_path

FACES = {"astronaut.png": (178, 76, 92, 104), "camera.png": (186, 120, 72, 92)}
"""Left, top, width, height, in pixels, as drawn by hand."""
THINGS = {
    "astronaut.png": [("Person", (22, 2, 400, 510))],
    "camera.png": [("Person", (8, 40, 320, 470))],
    "chelsea.png": [("Cat", (0, 4, 442, 296))],
    "coffee.png": [("Coffee cup", (160, 24, 268, 300)), ("Spoon", (370, 110, 130, 190))],
}


class BoxSetMaker:
    """Gathers pictures and boxes, and writes them down."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pictures").mkdir(parents=True)
        self.document: dict[str, Any] = {"images": [], "categories": [], "annotations": []}
        self._classes: dict[str, int] = {}

    def add(self, image: np.ndarray, boxes: list[tuple[str, tuple[float, ...]]], **more: Any) -> None:
        """A picture and what it shows."""
        number = len(self.document["images"]) + 1
        name = f"pictures/{number:02}.png"
        cv2.imwrite(str(self.folder / name), image)
        height, width = image.shape[:2]
        self.document["images"].append({"id": number, "file_name": name, "width": width, "height": height, **more})
        for label, box in boxes:
            self.category(label)
            ids = {"id": len(self.document["annotations"]) + 1, "image_id": number, "category_id": self._classes[label]}
            self.document["annotations"].append({**ids, "bbox": list(box), "area": box[2] * box[3], "iscrowd": 0})

    def category(self, label: str) -> None:
        if label not in self._classes:
            self._classes[label] = len(self._classes) + 1
            self.document["categories"].append({"id": self._classes[label], "name": label})

    def write(self) -> Path:
        (self.folder / "annotations.json").write_text(json.dumps(self.document))
        return self.folder


def face_set(folder: Path) -> Path:
    """Six pictures with a face, one of them without a box for it by mistake, and one with none."""
    made = BoxSetMaker(folder)
    made.category("face")
    for name, (left, top, width, height) in FACES.items():
        image = cv2.imread(str(picture_path(name)))
        made.add(image, [("face", (left, top, width, height))])
        made.add(image[:, ::-1], [("face", (image.shape[1] - left - width, top, width, height))])
        small = cv2.resize(image, None, fx=0.6, fy=0.6, interpolation=cv2.INTER_AREA)
        made.add(small, [("face", tuple(0.6 * value for value in (left, top, width, height)))])
    made.document["annotations"].pop()
    made.add(cv2.imread(str(picture_path("coffee.png"))), [])
    return made.write()


def thing_set(folder: Path) -> Path:
    """Four pictures of persons, a cat and a cup; and of a spoon, which the SSD does not know."""
    made = BoxSetMaker(folder)
    for name, boxes in THINGS.items():
        made.add(cv2.imread(str(picture_path(name))), boxes)
    return made.write()
