"""Centres of the successes: in how many ways has a task been solved, and how far from them is an episode?

DBSCAN, as in SRPO (arXiv 2511.15605), but where it can fire. In a standardised space of 1408 dimensions
typical successes are about 50 apart, so the released eps of 0.5 joins none but copies (reference, section
1.5). Here points are first projected on the principal directions in which the successes differ, and eps is
read off their own nearest-neighbour distances. Only the labels come from that small space; centres and
distances are in the full one, where a failure may differ in a direction in which no two successes do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import DBSCAN

Vectors = NDArray[np.float64]


@dataclass(frozen=True)
class Clustering:
    """How to cluster.

    Attributes:
        min_members: a cluster has at least this many successes near one of them; also the k of the
            nearest-neighbour distance, counting the point itself.
        reduced_dims: principal directions kept.
        quantile: this share of the successes shall find their k-th neighbour within eps ...
        slack: ... times this.
        cluster_from: with fewer successes, each is a centre of its own. SRPO's ablation finds the nearest
            single success as good early in training and worse late; a mean of four points from two modes
            lies in neither.
    """

    min_members: int = 3
    reduced_dims: int = 8
    quantile: float = 0.9
    slack: float = 1.25
    cluster_from: int = 12

    def __post_init__(self) -> None:
        if self.min_members < 2 or self.reduced_dims < 1 or not 0 < self.quantile <= 1 or self.slack <= 0:
            raise ValueError(
                f"{self}: expected min_members >= 2, reduced_dims >= 1, quantile in (0, 1], slack > 0"
            )


@dataclass(frozen=True)
class Centres:
    """Weighted means of clusters of N successes.

    Attributes:
        position: (C,F).
        member: (N,) int, the cluster of each success, -1 for those in none.
        point: (N,F), the successes.
        weight: (N,) positive.
        clustered: false when every success is its own centre (too few, or none close to another).
    """

    position: Vectors
    member: NDArray[np.int64]
    point: Vectors
    weight: Vectors
    clustered: bool

    def distance(self, vectors: Vectors) -> Vectors:
        """Euclidean distance to the nearest centre, (M,F) to (M,)."""
        return nearest(vectors, self.position)

    def without(self, index: int) -> Vectors:
        """Centres (C' or C,F) as they would be had success `index` not happened; labels stay as they are."""
        own = self.member[index]
        if own < 0:
            return self.position
        others = (self.member == own) & (np.arange(len(self.member)) != index)
        if not others.any():
            return np.delete(self.position, own, axis=0)
        position = self.position.copy()
        position[own] = np.average(self.point[others], axis=0, weights=self.weight[others])
        return position

    def leave_one_out(self) -> Vectors:
        """(N,) distance of each success to the nearest centre made without it; inf if there is none."""
        return np.array([nearest(self.point[i : i + 1], self.without(i))[0] for i in range(len(self.point))])


def find_centres(point: Vectors, weight: Vectors, settings: Clustering) -> Centres:
    """Cluster N successes.

    Args:
        point: (N,F), N at least 1.
        weight: (N,) positive, for instance by freshness.
        settings: how.

    Returns:
        At least one centre. Successes that DBSCAN calls noise belong to none. If it calls all of them noise,
        or there are fewer than `cluster_from`, each success is its own centre and `clustered` is false.
    """
    member = np.full(len(point), -1)
    if len(point) >= settings.cluster_from:
        reduced = principal(point, settings.reduced_dims)
        member = DBSCAN(eps=neighbour_eps(reduced, settings), min_samples=settings.min_members).fit_predict(
            reduced
        )
    clustered = bool((member >= 0).any())
    if not clustered:
        member = np.arange(len(point))
    position = np.stack(
        [
            np.average(point[member == label], axis=0, weights=weight[member == label])
            for label in range(member.max() + 1)
        ]
    )
    return Centres(position, member.astype(np.int64), point, weight, clustered)


def neighbour_eps(point: Vectors, settings: Clustering) -> float:
    """DBSCAN's eps from the distances of N points to their k-th nearest neighbour (k counts the point).

    Never 0: when most points coincide, coinciding still counts as near.
    """
    pairs = pairwise(point, point)
    neighbour = np.sort(pairs, axis=1)[:, min(settings.min_members, len(point)) - 1]
    return max(
        settings.slack * float(np.quantile(neighbour, settings.quantile)), 1e-9 * (1 + float(pairs.max()))
    )


def principal(point: Vectors, dims: int) -> Vectors:
    """Coordinates of N points along the `dims` directions in which they vary most, in their own units."""
    left, size, _ = np.linalg.svd(point - point.mean(0), full_matrices=False)
    dims = min(dims, len(size))
    return np.asarray(left[:, :dims] * size[:dims], dtype=np.float64)


def pairwise(a: Vectors, b: Vectors) -> Vectors:
    """Euclidean distances (M,N), row by row, so that a row does not depend on what else is asked for."""
    return np.array([np.sqrt(((b - row) ** 2).sum(-1)) for row in a]).reshape(len(a), len(b))


def nearest(vectors: Vectors, centres: Vectors) -> Vectors:
    """Distance of each vector to its nearest centre; inf if there is no centre."""
    if not len(centres):
        return np.full(len(vectors), np.inf)
    return np.asarray(pairwise(vectors, centres).min(1), dtype=np.float64)
