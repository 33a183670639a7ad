"""Pictures of digits to measure, drift and learn by: the twenty in the repository, moved and turned."""

import itertools
from pathlib import Path

import cv2
import numpy as np

from agent.values import Image
from tests.sim.bundles import ROOT
from tools.picture_set import Entry, PictureSet, digest, load_set, write_index

DIGITS = ROOT / "tests" / "golden" / "digits"


def turned(picture: Image, degrees: float, right_px: float = 0, down_px: float = 0) -> Image:
    """A picture turned around its middle, then moved."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    matrix[:, 2] += (right_px, down_px)
    return cv2.warpAffine(picture, matrix, (width, height))


def digits() -> list[tuple[str, Image]]:
    """Label and picture, 28 x 28 gray."""
    return [(path.name[0], cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)) for path in sorted(DIGITS.glob("*.png"))]


def write_pictures(folder: Path, degrees: tuple[float, ...], moves_px: tuple[int, ...] = (0,)) -> list[str]:
    """Each digit turned and moved in all ways; gives the labels in the order of the files' names."""
    folder.mkdir(parents=True)
    labels = []
    ways = itertools.product(degrees, moves_px, moves_px)
    for number, ((label, picture), (angle, right_px, down_px)) in enumerate(
        (one, way) for way in ways for one in digits()
    ):
        cv2.imwrite(str(folder / f"{number:04}.png"), turned(picture, angle, right_px, down_px))
        labels.append(label)
    return labels


def make_set(folder: Path, degrees: tuple[float, ...], moves_px: tuple[int, ...] = (0,), seed: int = 1) -> PictureSet:
    """A data set of them; every fourth picture is to test with, every fourth to validate."""
    labels = write_pictures(folder / "pictures", degrees, moves_px)
    splits = ("train", "validation", "train", "test")
    places = np.random.default_rng(seed).permutation(len(labels))
    entries = []
    for number, label in enumerate(labels):
        path = f"pictures/{number:04}.png"
        data = (folder / path).read_bytes()
        entries.append(Entry(path, label, f"{number:04}", splits[places[number] % 4], digest(data)))
    write_index(folder, entries)
    return load_set(folder)
