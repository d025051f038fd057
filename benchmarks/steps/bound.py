"""The least that a step can cost: one encoder product and one sweep of fused Adam."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.cases import Case
from benchmarks.data import Data


def build(case: Case, data: Data, lr: float) -> Callable[[Tensor], float]:
    weights = [torch.nn.Parameter(data.rows.clone()) for _ in range(2)]
    for parameter in weights:
        parameter.grad = torch.full_like(parameter, 1e-3)
    optimizer = torch.optim.Adam(weights, lr=lr, fused=True)
    product = data.rows.new_empty(len(data.batches[0]), len(data.rows))

    def step(x: Tensor) -> float:
        torch.mm(x, weights[0].detach().T, out=product[: len(x)])
        optimizer.step()
        return weights[0][0, 0].item()

    return step
