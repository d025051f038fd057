"""The same weights and activations for every library, from a fixed seed."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import SIZES, Case

BATCHES = 4
DIRECTIONS, ACTIVE = 2048, 16  # of the mixture that activations are made of


@dataclass(frozen=True)
class Data:
    """Weights [d_sae, d_in] with rows of norm 1, batches [batch, d_in] of mean norm sqrt(d_in), and the pre-activation
    that `l0` features of a row exceed."""

    rows: Tensor
    batches: list[Tensor]
    level: float


def data(case: Case) -> Data:
    size = SIZES[case.size]
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(size.d_sae, size.d_in, generator=generator), dim=1)
    directions = F.normalize(torch.randn(DIRECTIONS, size.d_in, generator=generator), dim=1)
    batches = []
    for _ in range(BATCHES):
        chosen = torch.randint(DIRECTIONS, (size.batch, ACTIVE), generator=generator)
        strengths = -torch.rand(size.batch, ACTIVE, generator=generator).clamp_min(1e-9).log()
        x = F.embedding_bag(chosen, directions, per_sample_weights=strengths, mode="sum")
        x += 0.3 * torch.randn(size.batch, size.d_in, generator=generator) / size.d_in**0.5
        batches.append(x * (size.d_in**0.5 / x.norm(dim=1).mean()))
    pre = (batches[0][:64] @ rows.T).flatten()
    return Data(rows, batches, pre.topk(64 * case.l0).values.min().item())
