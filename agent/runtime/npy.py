"""NumPy's own file format, from whoever sent it."""

from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.runtime.text import one_line


def load_npy(data: bytes) -> NDArray[Any]:
    """The array in the bytes of a `.npy` file. Nothing is unpickled.

    Raises:
        ValueError: it is none.
    """
    if not data.startswith(np.lib.format.MAGIC_PREFIX):  # np.load would take archives and pickles for arrays, too
        raise ValueError("expected a NumPy array")
    try:
        array: NDArray[Any] = np.load(BytesIO(data), allow_pickle=False)
    except Exception as exc:  # NumPy reads the header as Python, and asks for the memory that it names
        raise ValueError(f"expected a NumPy array: {one_line(str(exc), 100)}") from exc
    return array
