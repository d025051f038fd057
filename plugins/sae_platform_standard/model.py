"""f = relu(pre), penalised by the L_p norm of the activations weighted by their decoder norms."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_platform.components import Precision
from sae_platform.linear import Forward, LinearSAE
from sae_platform.sae import Coefficient, StepState
from sae_platform.sparse import Features, SparseFeatures, positive
from sae_platform_standard import StandardConfig


class StandardSAE(LinearSAE):
    _cfg: StandardConfig
    sparse_step = True

    def activate(self, pre: Features) -> Features:
        return pre.replace(pre.values.relu())

    def select(self, pre: Tensor) -> SparseFeatures:
        return positive(pre)

    def coefficients(self) -> dict[str, Coefficient]:
        return {"l1": Coefficient(self._cfg.l1_coefficient, self._cfg.l1_warm_up_steps)}

    def penalties(self, forward: Forward, state: StepState) -> dict[str, Tensor]:
        norms = _row_norms(forward.features, self.W_dec.norm(dim=-1), self._cfg.lp_norm)
        terms = {"l1_loss": state.coefficients["l1"] * norms.mean()}
        if self._cfg.use_ghost_grads and state.dead is not None and len(state.dead):
            terms["ghost_grad_loss"] = self._ghost_gradients(forward, state.dead, state.precision)
        return terms

    def _ghost_gradients(self, forward: Forward, dead: Tensor, precision: Precision) -> Tensor:
        """Dead features, as if exponentially active, learn to predict the residual at half its norm (Jermyn, Templeton
        2024). The elementwise rescaling gives the term the value of the reconstruction error."""
        residual = forward.target - forward.reconstruction
        ghost = self.dead_preactivations(forward.x, dead, precision).exp() @ self.W_dec[dead]
        half = residual.norm(dim=-1, keepdim=True) / (1e-6 + 2 * ghost.norm(dim=-1, keepdim=True))
        error = (ghost * half.detach() - residual.detach()).pow(2)
        rescaled: Tensor = error * (residual.pow(2) / (error + 1e-6)).detach()
        return rescaled.mean()


def _row_norms(features: Features, weights: Tensor, p: float) -> Tensor:
    """The L_p norm of the weighted values of each row, [rows]; a value at zero gets no gradient, though that of a root
    is infinite there."""
    if p == 1:
        return features.row_sums(weights)
    tiny = torch.finfo(features.values.dtype).tiny
    values = features.values * features.at(weights)
    powers = values.clamp_min(tiny).pow(p) * (values > 0)
    return features.replace(powers).row_sums().clamp_min(tiny).pow(1 / p)
