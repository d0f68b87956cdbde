"""Vectors for the tests of selectors that read them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.selectors.base import Vectors

Floats = npt.NDArray[np.float32]


def at_angles(*degrees: float) -> Floats:
    """Vectors of length one in the plane."""
    radians = np.radians(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def vectors(rows: npt.ArrayLike, *unknown: int) -> Vectors:
    """These rows as a selector sees them, some of them without a vector; no target."""
    points = np.array(rows, np.float32)
    mask = np.ones(len(points), np.bool_)
    mask[list(unknown)] = False
    return Vectors(points, mask, points[:0])


def some_points(count: int, seed: int, dimensions: int = 5) -> Floats:
    """Vectors of any length, of which some are copies."""
    random = np.random.default_rng(seed)
    points = random.normal(size=(count, dimensions)).astype(np.float32)
    copies = random.integers(0, max(count, 1), count // 4)
    points[: len(copies)] = points[copies]
    return points
