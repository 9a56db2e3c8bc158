"""The networks of the zoo in plain PyTorch: `nn.Embedding` with sparse gradients, and pairs as papers write them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainFFM(nn.Module):
    """Field-aware pairs, each vector picked by its two features."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.register_buffer("pairs", torch.triu_indices(columns, columns, 1))

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits (batch,) for rows (batch, columns, columns x dim)."""
        v = rows.view(*rows.shape[:2], rows.shape[1], -1)
        one, other = self.pairs
        linear = v.diagonal(dim1=1, dim2=2)[:, 0].sum(1)
        return self.bias + linear + (v[:, one, other] * v[:, other, one]).sum((1, 2))


class PlainAFM(nn.Module):
    """Attention over the products of all pairs."""

    def __init__(self, columns: int, dim: int, attention: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(1))
        self.attention = nn.Sequential(
            nn.Linear(dim, attention), nn.ReLU(), nn.Linear(attention, 1, bias=False)
        )
        self.pooled = nn.Linear(dim, 1, bias=False)
        self.register_buffer("pairs", torch.triu_indices(columns, columns, 1))

    def forward(self, rows: Tensor) -> Tensor:
        """Return logits (batch,) for rows (batch, columns, 1 + dim)."""
        linear, v = rows[..., 0].sum(1), rows[..., 1:]
        one, other = self.pairs
        pairs = v[:, one] * v[:, other]
        attended = (self.attention(pairs).softmax(1) * pairs).sum(1)
        return self.bias + linear + self.pooled(attended).squeeze(1)


def on_ids(
    network: nn.Module, batches: Sequence[tuple[np.ndarray, np.ndarray]], num_rows: int, dim: int
) -> Callable[[], float]:
    """Return one step of training over embeddings: predict the next batch, learn from it, return its loss.

    Parameters
    ----------
    network : nn.Module
        From rows (batch, columns, dim) to logits (batch,).
    batches : sequence of (ids, labels)
        Ids numbered from 0, int64 (batch, columns), and labels float32 (batch,).
    """
    torch.sparse.check_sparse_tensor_invariants.disable()
    table = nn.Embedding(num_rows, dim, sparse=True)
    nn.init.uniform_(table.weight, -0.01, 0.01)
    ready = itertools.cycle([(torch.from_numpy(ids), torch.from_numpy(labels)) for ids, labels in batches])
    network(table(next(ready)[0]))  # lazy modules take their shapes
    optimizers = [torch.optim.Adagrad(table.parameters(), lr=0.05), _adam(network)]

    def step() -> float:
        ids, labels = next(ready)
        loss = F.binary_cross_entropy_with_logits(network(table(ids)), labels)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return loss.item()

    return step


def on_images(network: nn.Module, batches: Sequence[tuple[np.ndarray, np.ndarray]]) -> Callable[[], float]:
    """Return one step of training over images (batch, 1, 28, 28) and their classes (batch,)."""
    ready = itertools.cycle([(torch.from_numpy(x), torch.from_numpy(y).long()) for x, y in batches])
    network(next(ready)[0])
    optimizer = _adam(network)

    def step() -> float:
        images, classes = next(ready)
        loss = F.cross_entropy(network(images), classes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _adam(network: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
