"""The DeepFM of the benchmark with its embeddings in PyTorch, as a model server of its own framework would hold it."""

from __future__ import annotations

import itertools
import platform

import numpy as np
import torch
from torch import nn

COLUMNS = 39
DIM = 16
# As many as there are numbers in the requests.
ROWS = 1_000_000


class DeepFM(nn.Module):
    """Guo et al. 2017, without first-order weights; ids are numbered from 0 beforehand."""

    def __init__(self, hidden: tuple[int, ...] = (400, 400)) -> None:
        super().__init__()
        self.table = nn.Embedding(ROWS, DIM)
        nn.init.normal_(self.table.weight, std=0.01)
        widths = (COLUMNS * DIM, *hidden)
        layers = [[nn.Linear(a, b), nn.ReLU()] for a, b in itertools.pairwise(widths)]
        self.deep = nn.Sequential(*itertools.chain(*layers), nn.Linear(widths[-1], 1))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return probabilities (rows,) for ids (rows, columns)."""
        rows = self.table(ids)
        pairs = 0.5 * (rows.sum(1).square() - rows.square().sum(1)).sum(1)
        return torch.sigmoid(pairs + self.deep(rows.flatten(1)).squeeze(1))


class Predictor:
    """The network in bfloat16 where that is safe and the processor has it, as onstream runs it here."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self._network = DeepFM().eval()
        self._bfloat16 = has_bfloat16()

    def __call__(self, ids: np.ndarray) -> np.ndarray:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=self._bfloat16):
            return self._network(torch.from_numpy(ids)).float().numpy()


def has_bfloat16() -> bool:
    """Tell what `onstream.learners.bfloat` tells, which is not installed where peers run."""
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
