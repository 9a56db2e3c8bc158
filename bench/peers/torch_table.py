"""PyTorch's embedding with sparse gradients: one table of fixed size and `torch.optim.Adagrad`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import nn

from bench.data import Ids


def pull_push(
    batches: Sequence[Ids], num_rows: int, *, dim: int = 16, rate: float = 0.05, threads: int = 2
) -> Callable[[], None]:
    """Return one step of work: gather the rows of the next batch, take a gradient for each, update the table.

    Parameters
    ----------
    batches : sequence of ndarray of int64, shape (rows, columns)
        Ids numbered from 0, as `bench.data.dense` does it beforehand. This spares the peer the look-up of
        64-bit keys, and the growth of the table.
    num_rows : int
        Size of the table.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.sparse.check_sparse_tensor_invariants.disable()
    table = nn.Embedding(num_rows, dim, sparse=True)
    optimizer = torch.optim.Adagrad(table.parameters(), lr=rate)
    ids = itertools.cycle([torch.from_numpy(batch) for batch in batches])
    grads = torch.randn(*batches[0].shape, dim)

    def step() -> None:
        optimizer.zero_grad()
        table(next(ids)).backward(grads)
        optimizer.step()

    return step
