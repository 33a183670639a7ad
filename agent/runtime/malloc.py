"""glibc's malloc, told to give memory back: by default a daemon grows for as long as cameras come and go.

A decoder takes some ten megabytes in pieces of all sizes, and gives them back when its stream ends. What other threads
have taken meanwhile lies between them, so the next decoder's pieces do not fit any more, and the heap grows. Pieces
that are mapped one by one leave no holes. Measured on x86-64 with a stream that broke every four seconds: after four
minutes 131 MB instead of 142, holes of 1.4 MB instead of 8.7 (docs/adr/0013-malloc.md). `make soak` watches over it.
"""

import ctypes
import os

_SETTINGS = {  # mallopt(3): the variable, its number in malloc.h, the value
    "MALLOC_ARENA_MAX": (-8, 2),  # by default up to eight heaps a core, each with holes of its own
    "MALLOC_TRIM_THRESHOLD_": (-1, 64 << 10),  # so much may stay free at the end of the heap
    "MALLOC_MMAP_THRESHOLD_": (-3, 32 << 10),  # pieces from here on are mapped one by one
}


def spare_memory() -> None:
    """Call it before threads begin and before NumPy is imported; processes that are started later get it as well.

    What the environment sets already stays. Other C libraries than glibc (musl) are left as they are.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # else a thread a core, for products that no frame needs
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for name, (number, value) in _SETTINGS.items():
        if mallopt is not None and name not in os.environ:
            os.environ[name] = str(value)
            mallopt(number, value)
