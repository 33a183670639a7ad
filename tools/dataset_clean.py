"""What tools/dataset.py leaves out of a set: broken samples, duplicates, contradictions, what there is too much of."""

import hashlib
import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from agent.errors import ModelError
from agent.inference.golden import load_input
from agent.values import Image, Samples
from tools.dataset_card import LeftOut
from tools.dataset_sources import Given
from tools.picture_set import Entry, digest

HASH_BITS = 64
_ONES: NDArray[np.uint8] = np.array([value.bit_count() for value in range(256)], np.uint8)


class Lookalikes:
    """Finds pictures that look like one of the same class that was there before.

    Of each picture 64 bits are kept: shrunk to 9 x 8 gray pixels, whether each is brighter than its left neighbour
    (dHash: N. Krawetz, "Kind of Like That", 2013). Alike are those that differ in few bits.
    """

    def __init__(self, most_bits: int) -> None:
        """`most_bits`: of the 64 that may differ; -1: nothing is alike."""
        self._most_bits = most_bits
        self._known: dict[str, NDArray[np.uint8]] = {}
        self._counts: dict[str, int] = defaultdict(int)

    def has(self, image: Image, label: str) -> bool:
        """Whether there was one alike; if not, this one is remembered."""
        if self._most_bits < 0:
            return False
        bits, count = difference_hash(image), self._counts[label]
        known = self._known.setdefault(label, np.empty((64, HASH_BITS // 8), np.uint8))
        if count and int(_ONES[known[:count] ^ bits].sum(1, dtype=np.int64).min()) <= self._most_bits:
            return True
        if count == len(known):
            known = self._known[label] = np.concatenate([known, np.empty_like(known)])
        known[count] = bits
        self._counts[label] = count + 1
        return False


def difference_hash(image: Image) -> NDArray[np.uint8]:
    """8 bytes of a picture, H x W x 3 BGR."""
    small = cv2.resize(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), (9, 8), interpolation=cv2.INTER_AREA)
    return np.packbits(small[:, 1:] > small[:, :-1])


def fill(folder: Path, given: Iterable[Given], alike_bits: int = -1) -> tuple[list[Entry], LeftOut]:
    """Write the samples that are kept below an empty folder.

    Args:
        folder: of the set.
        given: the samples; their names are for the user.
        alike_bits: pictures that differ from one of their class in so many of 64 bits are left out; -1: none are.

    Raises:
        OSError, and what `given` raises.
    """
    left_out, kept = LeftOut(), dict[bytes, Entry]()
    contradicting: set[bytes] = set()
    lookalikes = Lookalikes(alike_bits)
    for one in given:
        sha256 = digest(one.data)
        home = "windows" if one.suffix == ".npy" else "pictures"
        entry = Entry(f"{home}/{_plain(one.label)}/{sha256[:24]}{one.suffix}", one.label, one.source, one.split, sha256)
        path = folder / entry.path
        if path.exists():
            left_out.duplicates += 1
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.data)
        try:
            sample = load_input(path)
        except ModelError:
            left_out.broken.append(one.name)
            path.unlink()
            continue
        key = _content(sample)
        first = kept.get(key)
        if first is None and sample.dtype == np.uint8 and lookalikes.has(np.asarray(sample, np.uint8), one.label):
            left_out.alike += 1
            path.unlink()
            continue
        if first is None:
            kept[key] = entry
            continue
        path.unlink()
        if first.label == entry.label:
            left_out.duplicates += 1
        else:
            left_out.contradicting += 1
            contradicting.add(key)
    for key in contradicting:
        (folder / kept.pop(key).path).unlink()
        left_out.contradicting += 1
    return list(kept.values()), left_out


def _plain(label: str) -> str:
    """A folder's name for a class that may be called anything."""
    plain = re.sub(r"[^\w -]", "_", label)
    return label if plain == label else f"{plain}-{digest(label.encode())[:8]}"


def _content(sample: Image | Samples) -> bytes:
    return hashlib.sha256(f"{sample.dtype} {sample.shape}".encode() + sample.tobytes()).digest()


def balanced(entries: Sequence[Entry], how: str | None) -> tuple[list[Entry], list[Entry]]:
    """Split `train` with as many samples of each class; the other splits stay as life is.

    Args:
        entries: of the whole set.
        how: `cap`: as many as the rarest class has, chosen by digest; `repeat`: as many as the commonest, the others
            stand in the index several times; None: all stay.

    Returns:
        What stays, and what is left out.
    """
    by_label: dict[str, list[Entry]] = defaultdict(list)
    for one in entries:
        if one.split == "train":
            by_label[one.label].append(one)
    if how is None or not by_label:
        return list(entries), []
    counts = [len(own) for own in by_label.values()]
    stays = [one for one in entries if one.split != "train"]
    out: list[Entry] = []
    for own in by_label.values():
        if how == "repeat":
            stays += itertools.islice(itertools.cycle(own), max(counts))
        else:
            by_chance = sorted(own, key=lambda one: one.sha256)
            stays += by_chance[: min(counts)]
            out += by_chance[min(counts) :]
    return stays, out
