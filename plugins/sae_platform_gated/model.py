"""One encoder product, two heads: the gate decides what fires, the magnitude how much."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sae_platform.linear import Forward, LinearSAE
from sae_platform.sae import Coefficient, StepState
from sae_platform.sparse import Features, SparseFeatures, positive
from sae_platform_gated import GatedConfig


class GatedSAE(LinearSAE):
    """gate = pre + b_gate, magnitude = relu(pre exp(r_mag) + b_mag), f = magnitude where the gate is positive."""

    _cfg: GatedConfig
    sparse_step = True

    def __init__(self, cfg: GatedConfig) -> None:
        super().__init__(cfg)
        self.b_enc = None
        self.b_gate = nn.Parameter(torch.zeros(cfg.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(cfg.d_sae))
        self.r_mag = nn.Parameter(torch.zeros(cfg.d_sae))

    def preactivations(self, x: Tensor) -> Tensor:
        """Those of the magnitude, [..., d_sae]."""
        return super().preactivations(x) * self.r_mag.exp() + self.b_mag

    def activate(self, pre: Features) -> Features:
        magnitude = (pre.values * pre.at(self.r_mag.exp()) + pre.at(self.b_mag)).relu()
        return pre.replace(torch.where(self._gate(pre) > 0, magnitude, 0.0))

    def select(self, pre: Tensor) -> SparseFeatures:
        opened = positive(pre.add_(self.b_gate))
        return opened.replace(opened.values - opened.at(self.b_gate))

    def coefficients(self) -> dict[str, Coefficient]:
        return {"l1": Coefficient(self._cfg.l1_coefficient, self._cfg.l1_warm_up_steps)}

    def penalties(self, forward: Forward, state: StepState) -> dict[str, Tensor]:
        opened = forward.pre.replace(self._gate(forward.pre).relu())
        W_dec: Tensor = self.W_dec
        b_dec: Tensor = self.b_dec
        if self._cfg.freeze_auxiliary_decoder:  # a decoder that these terms could shrink would open the gates
            W_dec, b_dec = W_dec.detach(), b_dec.detach()
        by_gate = opened.decode(W_dec) + b_dec
        return {
            "l1_loss": state.coefficients["l1"] * opened.row_sums(W_dec.norm(dim=-1)).mean(),
            "auxiliary_reconstruction_loss": (by_gate - forward.target).pow(2).sum(-1).mean(),
        }

    def _gate(self, pre: Features) -> Tensor:
        return pre.values + pre.at(self.b_gate)
