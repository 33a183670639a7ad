"""What a model said of the data it was measured on: what `agent.feedback.drift` holds a device's frames against."""

import math
from typing import Annotated

from msgspec import Meta

from agent.manifest.section import Section, Share

MAX_EMBEDDING_VALUES = 4096


class Histogram(Section, frozen=True):
    """How one number is spread. Bin `i` holds what is from `edges[i - 1]` to below `edges[i]`; outer bins are open."""

    edges: Annotated[tuple[float, ...], Meta(min_length=1, max_length=100)]
    """Ascending."""
    shares: Annotated[tuple[Share, ...], Meta(min_length=2, max_length=101)]
    """Of each bin; one more than edges."""

    def __post_init__(self) -> None:
        if len(self.shares) != len(self.edges) + 1:
            raise ValueError(f"shares: expected {len(self.edges) + 1}, one more than edges, got {len(self.shares)}")
        if not all(math.isfinite(edge) for edge in self.edges) or list(self.edges) != sorted(set(self.edges)):
            raise ValueError("edges: expected finite numbers, each larger than the one before")
        _check_sum("shares", sum(self.shares))


class Embeddings(Section, frozen=True):
    """Where the embeddings lie: mean and standard deviation of each value, and how far from there samples are."""

    mean: Annotated[tuple[float, ...], Meta(min_length=1, max_length=MAX_EMBEDDING_VALUES)]
    std: Annotated[tuple[Annotated[float, Meta(gt=0.0)], ...], Meta(min_length=1, max_length=MAX_EMBEDDING_VALUES)]
    distance: Histogram
    """Of the root mean square of `(value - mean) / std`."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std):
            raise ValueError(f"std: expected {len(self.mean)} values, as many as mean, got {len(self.std)}")


class Reference(Section, frozen=True):
    """What the model said of so many samples; written by the tools that measure it."""

    samples: Annotated[int, Meta(ge=1)]
    classes: Annotated[dict[str, Share], Meta(min_length=1, max_length=10_000)]
    """Share of samples by the label that the model was surest of; "" for nothing found."""
    confidence: Histogram
    """Of that label; of an anomaly its score."""
    embedding: Embeddings | None = None
    """Where the manifest names an embedding."""

    def __post_init__(self) -> None:
        _check_sum("classes", sum(self.classes.values()))


def _check_sum(key: str, total: float) -> None:
    if not 0.99 <= total <= 1.01:
        raise ValueError(f"{key}: expected shares that add up to 1, got {total:g}")
