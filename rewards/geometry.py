"""How well a box, a point or a path that a model named fits the true one. Pure functions of plain numbers.

A box is (left, top, right, bottom) in any unit, with left < right and top < bottom; a path is (N,2) points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
Points = NDArray[np.float64]

ANGLE_WEIGHT, LENGTH_WEIGHT = 0.25, 0.1
FRECHET_SCALE = math.sqrt(2) + ANGLE_WEIGHT * math.pi + LENGTH_WEIGHT * math.log(10)
TINY = 1e-12


def iou(a: Box, b: Box) -> float:
    """Intersection over union, in [0, 1]; 0 if both are empty."""
    inside = _area(_intersection(a, b))
    union = _area(a) + _area(b) - inside
    return min(1.0, inside / union) if union > 0 else 0.0


def giou(a: Box, b: Box) -> float:
    """IoU less the share of the smallest box around both that neither fills, in [-1, 1]."""
    around = _area((min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])))
    union = _area(a) + _area(b) - _area(_intersection(a, b))
    if around <= 0:
        return 0.0
    return max(-1.0, min(1.0, iou(a, b) - (around - union) / around))


def gaussian_point(point: tuple[float, float], box: Box, alpha: float = 0.5) -> float:
    """exp(-((x - mx)^2 / sx^2 + (y - my)^2 / sy^2) / 2), m the box's centre, s alpha times its size.

    Source: GUI-G2 (arXiv 2507.15846), checked against the released code (``gaussian_grpo.py``).
    """
    total = 0.0
    for value, low, high in zip(point, box[:2], box[2:], strict=True):
        total += ((value - (low + high) / 2) / (alpha * (high - low))) ** 2
    return math.exp(-0.5 * total)


def gaussian_coverage(a: Box, b: Box, alpha: float = 0.5) -> float:
    """Bhattacharyya coefficient of the two boxes' Gaussians (as in `gaussian_point`), in [0, 1].

    In each axis sqrt(2 s1 s2 / (s1^2 + s2^2)) * exp(-(m1 - m2)^2 / (4 (s1^2 + s2^2))).

    Source: GUI-G2, checked against the released code, which adds 1e-8 to the determinants and rounds to
    three places.
    """
    coefficient = 1.0
    for low, high in ((0, 2), (1, 3)):
        s, t = alpha * (a[high] - a[low]), alpha * (b[high] - b[low])
        spread = s * s + t * t
        if not 0 < spread < math.inf:
            return 0.0
        shift = (a[low] + a[high] - b[low] - b[high]) / 2
        coefficient *= math.sqrt(max(0.0, 2 * s * t / spread)) * math.exp(-shift * shift / (4 * spread))
    return min(1.0, coefficient)


def tangents(path: Points) -> Points:
    """(N,2) unit directions: one-sided at the ends, the sum of both unit neighbours inside; 0 if none."""
    if len(path) == 1:
        return np.zeros((1, 2))
    step = _unit(np.diff(path, axis=0))
    inside = step[:-1] + step[1:]
    turned = np.linalg.norm(inside, axis=-1, keepdims=True) < TINY  # straight back: keep the way it came
    inside = np.where(turned, step[:-1], _unit(inside))
    return np.concatenate([step[:1], inside, step[-1:]])


def lengths(path: Points) -> NDArray[np.float64]:
    """(N,) distance to the next point; of the last, to the one before."""
    if len(path) == 1:
        return np.zeros(1)
    step = np.linalg.norm(np.diff(path, axis=0), axis=-1)
    return np.concatenate([step, step[-1:]])


def discrete_frechet(cost: NDArray[np.float64]) -> float:
    """The least, over all ways to walk both paths forward, of the greatest cost met; (N,M) pair costs."""
    rows, columns = cost.shape
    reach = np.full((rows + 1, columns + 1), math.inf)
    reach[0, 0] = -math.inf
    for i in range(rows):
        for j in range(columns):
            before = min(reach[i, j], reach[i, j + 1], reach[i + 1, j])
            reach[i + 1, j + 1] = max(before, cost[i, j])
    return float(reach[rows, columns])


def augmented_frechet(a: Points, b: Points) -> float:
    """Discrete Frechet distance of two paths that also looks at their directions and steps.

    A pair costs its distance + 0.25 * angle between the tangents + 0.1 * |ln of the ratio of the lengths|.

    Source: VLA-R1 (arXiv 2510.01623), checked against the released code (``robot_bbox_traj_norm.py``).
    """
    cost = np.linalg.norm(a[:, None] - b[None], axis=-1)
    ta, tb = tangents(a), tangents(b)
    straight = (np.abs(ta).sum(-1) > 0)[:, None] & (np.abs(tb).sum(-1) > 0)[None]
    cost += ANGLE_WEIGHT * np.where(straight, np.arccos(np.clip(ta @ tb.T, -1, 1)), 0.0)
    la, lb = np.maximum(lengths(a), TINY), np.maximum(lengths(b), TINY)
    cost += LENGTH_WEIGHT * np.abs(np.log(la)[:, None] - np.log(lb)[None])
    return discrete_frechet(cost)


def path_score(a: Points, b: Points) -> float:
    """1 - min(1, `augmented_frechet` / (sqrt(2) + 0.25 pi + 0.1 ln 10)) for paths in the unit square."""
    return 1.0 - min(1.0, augmented_frechet(a, b) / FRECHET_SCALE)


def centred_box(numbers: Sequence[float]) -> Box:
    """(centre x, centre y, width, height) to a box, cut to the unit square; sizes lose their sign."""
    x, y, width, height = numbers[0], numbers[1], abs(numbers[2]), abs(numbers[3])
    left, top, right, bottom = (
        min(1.0, max(0.0, edge)) for edge in (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
    )
    return left, top, right, bottom


def _intersection(a: Box, b: Box) -> Box:
    return max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _unit(vectors: Points) -> Points:
    size = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(size < TINY, 0.0, vectors / np.maximum(size, TINY))
