"""tools/mnist.py: the digits as the package has them, and nothing else from its pickle."""

import gzip
import io
import os
import pickle
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from tools.mnist import FILE, MnistError, _ArraysOnly, digits


class Evil:
    def __reduce__(self):
        return os.getpid, ()


def test_a_pickle_that_wants_to_run_something_is_refused() -> None:
    with pytest.raises(pickle.UnpicklingError, match=r"posix\.getpid is not allowed"):
        _ArraysOnly(io.BytesIO(pickle.dumps(Evil()))).load()


def test_a_missing_file_and_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MnistError, match=r"mend: python3 tools/fetch_models\.py digits"):
        next(digits(tmp_path / "nowhere.gz"))
    other = tmp_path / "other.gz"
    other.write_bytes(gzip.compress(pickle.dumps(Evil())))
    with pytest.raises(MnistError, match="another file than expected"):
        next(digits(other))


@pytest.mark.slow
def test_the_first_digits() -> None:
    if not FILE.is_file():
        pytest.skip("python3 tools/fetch_models.py digits")
    first = list(islice(digits(), 5))
    assert [(split, label) for split, label, _ in first] == [("train", label) for label in (5, 0, 4, 1, 9)]
    assert all(picture.shape == (28, 28) and picture.dtype == np.uint8 for _, _, picture in first)
    assert first[0][2].max() == 255
