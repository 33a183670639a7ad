"""Delays between tries: exponential with full jitter, so that a thousand devices don't come back at once.

After "Exponential Backoff And Jitter", AWS Architecture Blog, 2015: sleep = uniform(0, min(cap, base * 2^n)).
"""

import random


class Backoff:
    """Gives the next delay; `reset()` after a success."""

    def __init__(self, base_s: float = 0.5, cap_s: float = 30.0, rng: random.Random | None = None) -> None:
        self._base_s = base_s
        self._cap_s = cap_s
        self._rng = rng or random.Random()
        self._tries = 0

    def next_s(self) -> float:
        """The next delay in seconds, never under a twentieth of the bound it is drawn from, so that no loop spins."""
        bound_s = min(self._cap_s, self._base_s * 2.0 ** min(self._tries, 30))
        self._tries += 1
        return self._rng.uniform(bound_s / 20, bound_s)

    def reset(self) -> None:
        self._tries = 0
