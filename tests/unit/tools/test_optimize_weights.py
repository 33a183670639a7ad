"""Magnitude pruning and clustering: which weights become 0, and which become the same."""

import numpy as np
import pytest

from tools.optimize_channels import strongest
from tools.optimize_weights import CLUSTERS, FIRST_SHARE, cluster_of, mask_of, zeros_at

NORMAL = np.random.default_rng(1).normal(0, 1, (3, 3, 8, 16)).astype(np.float32)


def test_zeros_grow_quickly_at_first_and_end_where_they_should() -> None:
    grown = [zeros_at(progress, 0.5) for progress in (0.0, 0.25, 0.5, 0.75, 1.0, 2.0)]
    assert grown == sorted(grown)
    assert grown[0] == FIRST_SHARE
    assert grown[-2:] == [0.5, 0.5]
    assert grown[1] - grown[0] > grown[3] - grown[2]
    assert zeros_at(0.0, 0.1) == pytest.approx(0.1)


def test_the_weakest_weights_go_whatever_their_sign() -> None:
    mask = mask_of(NORMAL, 0.5)
    assert mask.shape == NORMAL.shape
    assert mask.mean() == 0.5
    assert np.abs(NORMAL[~mask]).max() <= np.abs(NORMAL[mask]).min()


def test_equal_weights_are_not_all_taken_or_none() -> None:
    assert mask_of(np.ones(10, np.float32), 0.3).sum() == 7


def test_weights_fall_into_as_many_clusters_around_their_means() -> None:
    places = cluster_of(NORMAL, CLUSTERS)
    centroids = np.array([NORMAL.ravel()[places == place].mean() for place in range(CLUSTERS)])
    assert len(np.unique(places)) == CLUSTERS
    away = np.abs(NORMAL.ravel()[:, None] - centroids)
    assert (away[np.arange(len(places)), places] <= away.min(1) + 0.01).all()


@pytest.mark.parametrize("values", [np.zeros(20), np.array([0.0, 0.0, 1.0, 1.0, 5.0])])
def test_fewer_values_than_clusters_stay_as_they_are(values: np.ndarray) -> None:
    places = cluster_of(values.astype(np.float32), CLUSTERS)
    assert all(len(np.unique(values[places == place])) == 1 for place in np.unique(places))


def test_the_strongest_channels_stay_in_their_order_and_in_whole_eights() -> None:
    kernel = NORMAL * np.array([0.01, 1.0] * 8, np.float32)
    assert strongest(kernel, 0.5).tolist() == list(range(1, 16, 2))
    assert len(strongest(NORMAL, 0.3)) == 8
    assert strongest(NORMAL, 1.0).tolist() == list(range(16))
    assert strongest(NORMAL[..., :5], 0.5).tolist() == list(range(5))
