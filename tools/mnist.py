"""MNIST's 70,000 handwritten digits, out of what `tools/fetch_models.py digits` has fetched."""

import gzip
import hashlib
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).resolve().parent.parent / ".cache" / "zoo" / "mnist.pkl.gz"
SHA256 = "f11bb9e41d6c1b6c124aa38fd605497bdcfe2ee08cf7c2bb5a41ab5d759e1416"


class MnistError(Exception):
    """One line: what is wrong, where, and how to mend it."""


class _ArraysOnly(pickle.Unpickler):
    """A pickle may run anything; this one may make numpy arrays."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in {
            ("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"),
        }:  # fmt: skip
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def digits(file: Path = FILE) -> Iterator[tuple[str, int, NDArray[np.uint8]]]:
    """Split, digit and picture (28 x 28, white on black): 50,000 to train, 10,000 to validate, 10,000 to test.

    Raises:
        MnistError: the file is missing or another than was looked at.
    """
    try:
        data = file.read_bytes()
    except OSError as exc:
        raise MnistError(f"{file}: {exc.strerror}; mend: python3 tools/fetch_models.py digits") from exc
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise MnistError(f"{file}: another file than expected; mend: remove it, python3 tools/fetch_models.py digits")
    parts = _ArraysOnly(io.BytesIO(gzip.decompress(data)), encoding="latin1").load()
    for split, (values, labels) in zip(("train", "validation", "test"), parts, strict=True):
        pictures = np.round(values * 256).astype(np.uint8).reshape(-1, 28, 28)  # stored as k / 256
        for picture, label in zip(pictures, labels, strict=True):
            yield split, int(label), picture
