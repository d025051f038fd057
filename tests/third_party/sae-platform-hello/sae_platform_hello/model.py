"""BatchTopK (Bussmann et al. 2024, arXiv 2412.06410): the k x rows largest activations of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_platform import LinearSAE, StepState
from sae_platform.linear import Forward
from sae_platform.sae import Coefficient
from sae_platform.sparse import Features

if TYPE_CHECKING:
    from sae_platform_hello import BatchTopKConfig


class BatchTopKSAE(LinearSAE):
    """Training selects over the whole batch; use keeps what exceeds the running mean of the smallest value selected,
    so that what an input gives does not depend on its neighbours."""

    _cfg: BatchTopKConfig
    threshold: Tensor

    def __init__(self, cfg: BatchTopKConfig) -> None:
        super().__init__(cfg)
        self.register_buffer("threshold", torch.zeros(()))

    def activate(self, pre: Features) -> Features:
        return pre.replace(torch.where(pre.values > self.threshold, pre.values, 0.0))

    def activate_in_training(self, pre: Features) -> Features:
        count = min(self._cfg.k * len(pre.values), pre.values.numel())
        lowest = pre.values.detach().flatten().topk(count, sorted=False).values.clamp_min(0).min()
        self.threshold.lerp_(lowest, self._cfg.threshold_rate)
        return pre.replace(torch.where(pre.values >= lowest, pre.values, 0.0))

    def coefficients(self) -> dict[str, Coefficient]:
        return {"aux": Coefficient(self._cfg.aux_loss_coefficient)}

    def penalties(self, forward: Forward, state: StepState) -> dict[str, Tensor]:
        if state.dead is None or not len(state.dead):
            return {}
        residual = (forward.target - forward.reconstruction).detach()
        acts = self.dead_preactivations(forward.x, state.dead).relu()
        lowest = acts.detach().topk(min(self.d_in // 2, acts.shape[-1]), dim=-1).values[:, -1:]
        revived = torch.where(acts >= lowest, acts, 0.0) @ self.W_dec[state.dead]
        return {"auxiliary_loss": state.coefficients["aux"] * (revived - residual).pow(2).sum(-1).mean()}

    @torch.no_grad()
    def after_step(self) -> None:
        self.W_dec.copy_(F.normalize(self.W_dec, dim=-1))
