"""This project's step, as its training loop takes it, statistics included; options match the peers'."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.cases import PRECISIONS, SIZES, Case
from benchmarks.data import Data
from benchmarks.steps import BANDWIDTH, L0, L1
from sae_platform import SAEConfig
from sae_platform.activations import Batch
from sae_platform.sae import StepState
from sae_platform.sparse import Workspace, matmul_precision
from sae_platform.stepping import take_step
from sae_platform.tracking import TrainingStatistics

DEVIATIONS: dict[tuple[str, str], dict[str, Any]] = {
    ("topk", "unscaled"): {"rescale_acts_by_decoder_norm": False},
    ("topk", "auxk_half_dead"): {"aux_loss_coefficient": 1 / 32},
    ("gated", "frozen_decoder"): {"freeze_auxiliary_decoder": True},
}
FORCED = {"sparse": 2.0, "dense": 0.0}  # densities below which a step is sparse: always, never
SETTINGS: dict[str, dict[str, Any]] = {
    "topk": {"aux_loss_coefficient": 0.0},
    "standard": {"l1_coefficient": L1},
    "jumprelu": {"l0_coefficient": L0, "bandwidth": BANDWIDTH},
    "gated": {"l1_coefficient": L1, "freeze_auxiliary_decoder": False},
}


def build(case: Case, data: Data, lr: float) -> Callable[[Tensor], float]:
    size = SIZES[case.size]
    device = data.rows.device
    settings = SETTINGS[case.architecture] | DEVIATIONS.get((case.architecture, case.setting), {})
    if case.architecture == "topk":
        settings |= {"k": case.l0}
    cfg = SAEConfig(
        architecture=case.architecture, d_in=size.d_in, d_sae=size.d_sae, device=str(device), **settings
    )  # fmt: skip
    sae: Any = cfg.build().train()
    with torch.no_grad():
        sae.W_enc_rows.copy_(data.rows)
        sae.W_dec.copy_(data.rows)
    data.hold_l0(sae, case.architecture)
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr, fused=True)
    warmed = {name: coefficient.value for name, coefficient in sae.coefficients().items()}
    statistics = TrainingStatistics(size.d_sae, 10**9, device)
    half = torch.arange(0, size.d_sae, 2, device=device) if case.setting == "auxk_half_dead" else None
    precision: Any = case.setting if case.setting in PRECISIONS.values() else "full"
    state = StepState(0, warmed, half, FORCED.get(case.setting), Workspace(), precision)
    matmul_precision(precision).__enter__()  # until the process ends
    count = 0

    def step(x: Tensor) -> float:
        nonlocal count
        count += 1
        batch = Batch(x)
        output, loss = take_step(sae, optimizer, batch, state, 1.0)
        statistics.add(count, batch, output, loss)
        return loss.item()

    return step
