"""f = pre where pre exceeds its feature's threshold; thresholds learn through a rectangle kernel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from sae_platform.linear import Forward, LinearSAE
from sae_platform.sae import Coefficient, StepState
from sae_platform.sparse import Features, SparseFeatures, positive
from sae_platform_jumprelu import JumpReLUConfig


class JumpReLUSAE(LinearSAE):
    """The threshold itself is the parameter, kept at or above zero: in log space Adam would hardly move it."""

    _cfg: JumpReLUConfig
    sparse_step = True

    def __init__(self, cfg: JumpReLUConfig) -> None:
        super().__init__(cfg)
        self.threshold = nn.Parameter(torch.full((cfg.d_sae,), cfg.threshold_init))

    def activate(self, pre: Features) -> Features:
        jumped: Tensor = _JumpReLU.apply(pre.values, pre.at(self.threshold), self._cfg.bandwidth)  # type: ignore[no-untyped-call]
        return pre.replace(jumped)

    def select(self, pre: Tensor) -> SparseFeatures:
        lowest = self.threshold - self._cfg.bandwidth / 2 if self.training else self.threshold
        above = positive(pre.sub_(lowest))
        return above.replace(above.values + above.at(lowest))

    def coefficients(self) -> dict[str, Coefficient]:
        return {"l0": Coefficient(self._cfg.l0_coefficient, self._cfg.l0_warm_up_steps)}

    def penalties(self, forward: Forward, state: StepState) -> dict[str, Tensor]:
        terms = {"l0_loss": state.coefficients["l0"] * self._sparsity(forward).mean()}
        if self._cfg.pre_act_loss_coefficient and state.dead is not None and len(state.dead):
            below = self.threshold[state.dead] - self.dead_preactivations(forward.x, state.dead, state.precision)
            weighted = below.relu() * self.W_dec[state.dead].norm(dim=-1)
            terms["pre_act_loss"] = self._cfg.pre_act_loss_coefficient * weighted.sum(-1).mean()
        return terms

    def _sparsity(self, forward: Forward) -> Tensor:
        """The sparsity term of each row, [rows]."""
        if self._cfg.sparsity_loss == "tanh":
            features = forward.features
            weighted = features.values * features.at(self.W_dec.norm(dim=-1))
            return features.replace((self._cfg.tanh_scale * weighted).tanh()).row_sums()
        pre = forward.pre
        active: Tensor = _Step.apply(pre.values, pre.at(self.threshold), self._cfg.bandwidth)  # type: ignore[no-untyped-call]
        l0 = pre.replace(active).row_sums()
        if self._cfg.target_l0 is None:
            return l0
        return 2 / self._cfg.target_l0 * (l0 - self._cfg.target_l0).pow(2)

    @torch.no_grad()
    def after_step(self) -> None:
        self.threshold.clamp_(min=0)


class _Step(torch.autograd.Function):
    """1 where pre > threshold; the threshold's gradient is -1/bandwidth within half a bandwidth of it."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        return None, torch.where(_near(pre, threshold, ctx.bandwidth), grad, 0.0).mul_(-1 / ctx.bandwidth), None


class _JumpReLU(torch.autograd.Function):
    """pre where pre > threshold; the threshold's gradient is -threshold/bandwidth within half a bandwidth of it."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return torch.where(pre > threshold, pre, 0.0)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = _near(pre, threshold, ctx.bandwidth)
        for_threshold = torch.where(near, grad, 0.0).mul_(threshold).mul_(-1 / ctx.bandwidth)
        return torch.where(pre > threshold, grad, 0.0), for_threshold, None


def _near(pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
    """Where the rectangle kernel, of height 1/bandwidth, is not zero: |pre - threshold| < bandwidth/2."""
    return (pre - threshold).abs_() < bandwidth / 2
