"""sparsify's SparseCoder in a loop of ours with fused Adam: its own trainer needs CUDA."""

from __future__ import annotations

from collections.abc import Callable

import torch
from sparsify.config import SparseCoderConfig
from sparsify.sparse_coder import SparseCoder
from torch import Tensor

from benchmarks.cases import SIZES, Case
from benchmarks.data import Data


def build(case: Case, data: Data, lr: float) -> Callable[[Tensor], float]:
    size = SIZES[case.size]
    sae = SparseCoder(size.d_in, SparseCoderConfig(num_latents=size.d_sae, k=case.l0), data.rows.device)
    with torch.no_grad():
        sae.encoder.weight.copy_(data.rows)
        sae.W_dec.copy_(data.rows)
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr, fused=True)

    def step(x: Tensor) -> float:
        sae.set_decoder_norm_to_unit_norm()
        output = sae(x)
        loss = output.fvu * ((x - x.mean(0)).square().sum() / len(x))  # the others' mean squared error
        loss.backward()
        sae.remove_gradient_parallel_to_decoder_directions()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.item())

    return step
