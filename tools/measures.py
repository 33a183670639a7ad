"""Where to draw the line between usual and not."""

from collections.abc import Sequence

import numpy as np

from agent.evaluation.measures import count


def best_threshold(scores: Sequence[float], labels: Sequence[bool]) -> tuple[float, float]:
    """The threshold over which a score means yes that reaches the highest F1, and this F1.

    It lies in the middle between two scores, so that rounding on another machine does not matter; of equals, the
    lowest.

    Raises:
        ValueError: there are not two different scores.
    """
    given, wanted = np.asarray(scores, np.float64), np.asarray(labels, np.bool_)
    levels = np.unique(given)
    if len(levels) < 2:
        raise ValueError("expected two different scores or more")
    middles = (levels[1:] + levels[:-1]) / 2
    found = [count((given > middle).tolist(), wanted.tolist()).f1 for middle in middles]
    best = int(np.argmax(found))
    return float(middles[best]), found[best]
