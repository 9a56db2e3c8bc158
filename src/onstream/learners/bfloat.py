"""Whether the processor computes in bfloat16."""

from __future__ import annotations

import platform
from functools import cache

import torch

__all__ = ["has_bfloat16"]


@cache
def has_bfloat16() -> bool:
    """Tell whether PyTorch computes products of bfloat16 with instructions of this processor.

    Notes
    -----
    Where it does not, they are emulated, many times slower than in float32 (an MLP on an AMD Milan: 9 times).
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        # Asked whether it computes in bfloat16, oneDNN says yes to any AVX-512, and emulates it where that is all.
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())
