"""This project's step, as its training loop takes it, statistics included; options match the peers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import SIZES, Case
from benchmarks.data import Data
from benchmarks.libraries import BANDWIDTH, L0, L1
from sae_platform import SAEConfig
from sae_platform.activations import Batch
from sae_platform.sae import StepState
from sae_platform.sparse import Workspace
from sae_platform.tracking import TrainingStatistics
from sae_platform.training import take_step

SETTINGS: dict[str, dict[str, Any]] = {
    "topk": {"aux_loss_coefficient": 0.0},
    "standard": {"l1_coefficient": L1},
    "jumprelu": {"l0_coefficient": L0, "bandwidth": BANDWIDTH},
    "gated": {"l1_coefficient": L1, "freeze_auxiliary_decoder": False},
}


def build(case: Case, data: Data, lr: float) -> Callable[[Tensor], float]:
    size = SIZES[case.size]
    settings = SETTINGS[case.architecture] | ({"k": case.l0} if case.architecture == "topk" else {})
    cfg = SAEConfig(architecture=case.architecture, d_in=size.d_in, d_sae=size.d_sae, **settings)
    sae: Any = cfg.build().train()
    with torch.no_grad():
        sae.W_enc_rows.copy_(data.rows)
        sae.W_dec.copy_(data.rows)
        if case.architecture == "standard":
            sae.b_enc.fill_(-data.level)
        if case.architecture == "jumprelu":
            sae.threshold.fill_(data.level)
        if case.architecture == "gated":
            sae.b_gate.fill_(-data.level)
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr, fused=True)
    warmed = {name: coefficient.value for name, coefficient in sae.coefficients().items()}
    statistics = TrainingStatistics(size.d_sae, 10**9, torch.device("cpu"))
    state = StepState(0, warmed, workspace=Workspace())
    count = 0

    def step(x: Tensor) -> float:
        nonlocal count
        count += 1
        batch = Batch(x)
        output, loss = take_step(sae, optimizer, batch, state, 1.0)
        statistics.add(count, batch, output, loss)
        return loss.item()

    return step
