"""DeepFM as one writes it in plain PyTorch, whole and without its embeddings.

Run it in a process of its own, with PyTorch as it comes: python -m bench.peers.torch_deepfm whole|bare|inputs ROWS
Each line of its input is answered with the examples a second of one more round.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from bench.common import rate
from bench.data import COLUMNS, Ids, criteo, dense, zipf_ids


class DeepFM(nn.Module):
    """The part of DeepFM above its embeddings.

    References
    ----------
    Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction", IJCAI 2017,
    equations 1 to 4, without the first-order weights.
    """

    def __init__(self, columns: int = 39, dim: int = 16, hidden: tuple[int, ...] = (400, 400)) -> None:
        super().__init__()
        widths = (columns * dim, *hidden)
        layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in itertools.pairwise(widths)]
        self.deep = nn.Sequential(*itertools.chain(*layers), nn.Linear(widths[-1], 1))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return logits (batch,) for rows (batch, columns, dim)."""
        pairs = 0.5 * (rows.sum(1).square() - rows.square().sum(1)).sum(1)
        return pairs + self.deep(rows.flatten(1)).squeeze(1)


def whole(
    batches: Sequence[tuple[Ids, np.ndarray]],
    num_rows: int,
    *,
    dim: int = 16,
    hidden: tuple[int, ...] = (400, 400),
    rate: float = 0.01,
    threads: int = 2,
) -> Callable[[], float]:
    """Return one step of training: predict the next batch, learn from it, return the loss before it.

    Parameters
    ----------
    batches : sequence of (ids, labels)
        Ids numbered from 0 beforehand, int64 (rows, columns); labels float32 (rows,). They are turned into
        tensors before the first step: this peer neither reads, nor parses, nor hashes.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    torch.sparse.check_sparse_tensor_invariants.disable()
    table = nn.Embedding(num_rows, dim, sparse=True)
    nn.init.normal_(table.weight, std=0.01)
    network = DeepFM(batches[0][0].shape[1], dim, hidden)
    optimizers = [torch.optim.Adagrad(part.parameters(), lr=rate) for part in (table, network)]
    ready = itertools.cycle([(torch.from_numpy(ids), torch.from_numpy(labels)) for ids, labels in batches])

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


def bare(
    rows: int = 4096,
    columns: int = 39,
    *,
    dim: int = 16,
    hidden: tuple[int, ...] = (400, 400),
    rate: float = 0.01,
    input_grads: bool = True,
    threads: int = 2,
) -> Callable[[], float]:
    """Return one step of training the network alone, on embeddings that are already there.

    Parameters
    ----------
    input_grads : bool
        Whether the step also computes the gradient of the embeddings, which a table would need.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = DeepFM(columns, dim, hidden)
    optimizer = torch.optim.Adagrad(network.parameters(), lr=rate)
    embeddings = (0.01 * torch.randn(rows, columns, dim)).requires_grad_(input_grads)
    labels = (torch.rand(rows) < 0.25).float()

    def step() -> float:
        embeddings.grad = None
        loss = F.binary_cross_entropy_with_logits(network(embeddings), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main(peer: str, rows: int, batch_rows: int = 4096) -> None:
    """Answer each line of input with the rate of one round over `rows` examples."""
    repeats = rows // batch_rows
    if peer == "whole":
        ids, num_rows = dense(zipf_ids(rows, len(COLUMNS)))
        labels = np.asarray(criteo(rows)["label"]).astype(np.float32)
        step = whole(list(zip(np.split(ids, repeats), np.split(labels, repeats), strict=True)), num_rows)
    else:
        step = bare(batch_rows, len(COLUMNS), input_grads=peer == "inputs")
    measured = rate(step, batch_rows, repeats=repeats)
    for _ in sys.stdin:
        print(measured(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
