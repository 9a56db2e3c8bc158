"""What a row optimizer remembers of a row that it has never moved."""

from __future__ import annotations

import numpy as np

from onstream.contracts import Rows
from onstream.tables.optimizers import FTRL, Adagrad, Adam, GroupFTRL, RowOptimizer, RowwiseAdagrad, Slices

__all__ = ["begin_state"]


def begin_state(optimizer: RowOptimizer, weights: Rows) -> Rows:
    """Return the optimizer state of rows that begin with these weights.

    Parameters
    ----------
    optimizer : RowOptimizer
    weights : ndarray of float32, shape (n, dim)

    Returns
    -------
    ndarray of float32, shape (n, width)
        As the core begins the rows that it draws.
    """
    if isinstance(optimizer, Slices):
        ends = np.cumsum([width for width, _ in optimizer.parts])[:-1]
        pieces = zip(optimizer.parts, np.split(weights, ends, axis=1), strict=True)
        return np.concatenate([begin_state(part, piece) for (_, part), piece in pieces], axis=1)
    rows, dim = weights.shape
    match optimizer:
        case Adagrad(initial_accumulator=initial):
            return np.full((rows, dim), initial, np.float32)
        case RowwiseAdagrad(initial_accumulator=initial):
            return np.full((rows, 1), initial, np.float32)
        case FTRL() | GroupFTRL():
            return np.concatenate([_begin_z(optimizer, weights), np.zeros_like(weights)], axis=1)
        case Adam():
            return np.zeros((rows, 2 * dim + 1), np.float32)
    return np.zeros((rows, dim if getattr(optimizer, "momentum", 0) else 0), np.float32)


def _begin_z(optimizer: FTRL | GroupFTRL, weights: Rows) -> Rows:
    """Return the z for which the formulas of FTRL give back the weights at n = 0."""
    z = -weights * np.float32(optimizer.beta / optimizer.lr + optimizer.l2)
    if isinstance(optimizer, GroupFTRL):
        norm = np.linalg.norm(z, axis=1, keepdims=True)
        bound = optimizer.l21 * np.sqrt(weights.shape[1])
        z *= 1 + np.divide(bound, norm, out=np.zeros_like(norm), where=norm > 0)
    begun: Rows = np.where(z == 0, z, z + np.copysign(np.float32(optimizer.l1), z))
    return begun
