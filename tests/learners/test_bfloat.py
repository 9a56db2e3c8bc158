"""Which processors compute in bfloat16."""

import platform

import pytest
import torch

from onstream.learners.bfloat import has_bfloat16


@pytest.mark.parametrize(
    ("machine", "avx512_bf16", "amx", "onednn", "expected"),
    [
        # From Skylake to Ice Lake: AVX-512 without instructions for bfloat16.
        ("x86_64", False, False, True, False),
        ("AMD64", True, False, True, True),
        ("x86_64", False, True, True, True),
        ("aarch64", False, False, True, True),
        ("aarch64", False, False, False, False),
    ],
)
def test_a_processor_computes_in_bfloat16_if_it_has_instructions_for_it(
    monkeypatch, machine, avx512_bf16, amx, onednn, expected
):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    assert has_bfloat16.__wrapped__() is expected
