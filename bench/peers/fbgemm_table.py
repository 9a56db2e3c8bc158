"""FBGEMM's table on the CPU, which TorchRec trains with: the update is fused into the backward pass."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import fbgemm_gpu  # noqa: F401  registers the operators
import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    ComputeDevice,
    SplitTableBatchedEmbeddingBagsCodegen,
)

from bench.data import Ids

OPTIMIZERS = {"adagrad": EmbOptimType.EXACT_ADAGRAD, "rowwise": EmbOptimType.EXACT_ROWWISE_ADAGRAD}


def pull_push(
    batches: Sequence[Ids],
    num_rows: int,
    *,
    dim: int = 16,
    rate: float = 0.05,
    optimizer: str = "adagrad",
    pooled: bool = True,
    threads: int = 2,
) -> Callable[[], None]:
    """Return one step of work: gather the rows of the next batch, take a gradient for each, update the table.

    Parameters
    ----------
    batches : sequence of ndarray of int64, shape (rows, columns)
        Ids numbered from 0 beforehand, as for `bench.peers.torch_table`.
    num_rows : int
        Size of the table.
    optimizer : {"adagrad", "rowwise"}
        Adagrad with one accumulator a weight, or one a row.
    pooled : bool
        Whether each id is a bag of one, summed: the same work as without pooling, and much faster.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    table = SplitTableBatchedEmbeddingBagsCodegen(
        [(num_rows, dim, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=OPTIMIZERS[optimizer],
        learning_rate=rate,
        eps=1e-10,
        pooling_mode=PoolingMode.SUM if pooled else PoolingMode.NONE,
        device=torch.device("cpu"),
    )
    ids = itertools.cycle([torch.from_numpy(batch.ravel()) for batch in batches])
    bags = torch.arange(batches[0].size + 1)
    grads = torch.randn(batches[0].size, dim)

    def step() -> None:
        table(next(ids), bags).backward(grads)

    return step
