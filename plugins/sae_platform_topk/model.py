"""The k pre-activations that contribute most to each reconstruction, and AuxK, which revives dead features."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_platform.errors import PlatformError
from sae_platform.linear import Forward, LinearSAE
from sae_platform.sae import SAE, Coefficient, StepState
from sae_platform.sparse import (
    DenseFeatures,
    Features,
    SparseFeatures,
    largest,
    selected_preactivations,
)
from sae_platform_topk import TopKConfig


class TopKSAE(LinearSAE):
    """Features are measured as if decoder rows had unit norm: what is selected does not depend on how the weights share
    a feature's scale between encoder and decoder. Without `rescale_acts_by_decoder_norm` they are as they are."""

    _cfg: TopKConfig
    sparse_step = True

    def activate(self, pre: Features) -> Features:
        if isinstance(pre, DenseFeatures):  # nothing is selected yet
            seen, scale = pre.values.detach(), self.selection_scale()
            chosen = self.select(seen if scale is None else seen * scale)
            pre = pre.replace(pre.values * chosen.replace(torch.ones_like(chosen.values)).dense())
        return self.rectify(pre)

    def select(self, pre: Tensor) -> SparseFeatures:
        return self.strongest(pre, self._cfg.k)

    def strongest(self, pre: Tensor, k: int) -> SparseFeatures:
        """The k entries of each row of [rows, d_sae] that fire."""
        return largest(pre, k)

    def rectify(self, pre: Features) -> Features:
        """Pre-activations that were selected, as features."""
        return pre.replace(pre.values.relu())

    def selection_scale(self) -> Tensor | None:
        return self._decoder_norms().detach() if self._cfg.rescale_acts_by_decoder_norm else None

    def density(self, x: Tensor) -> float:
        return self._cfg.k / self.d_sae

    def encode(self, x: Tensor) -> Tensor:
        x = self.flattened(x)
        return self.encode_sparse(x).dense().view(*x.shape[:-1], self.d_sae)

    def encode_sparse(self, x: Tensor) -> SparseFeatures:
        features = super().encode_sparse(x)
        return features.replace(features.values * features.at(self._decoder_norms()))

    def decode(self, features: Tensor | SparseFeatures, x: Tensor | None = None) -> Tensor:
        norms = self._decoder_norms()
        if isinstance(features, SparseFeatures):
            return super().decode(features.replace(features.values / features.at(norms)), x)
        return super().decode(features / norms, x)

    def coefficients(self) -> dict[str, Coefficient]:
        return {"aux": Coefficient(self._cfg.aux_loss_coefficient)}

    def penalties(self, forward: Forward, state: StepState) -> dict[str, Tensor]:
        if not state.coefficients["aux"] or state.dead is None or not len(state.dead):
            return {}
        return {"auxiliary_loss": state.coefficients["aux"] * self._auxk(forward, state.dead, state)}

    def _auxk(self, forward: Forward, dead: Tensor, state: StepState) -> Tensor:
        """How badly the strongest dead features reconstruct the residual, relative to its variance, in units of the
        target's variance (so that the coefficient means what it does in the paper)."""
        residual = (forward.target - forward.reconstruction).detach()
        assert self.b_enc is not None
        decoder = self.W_dec[dead]
        scale = decoder.detach().norm(dim=-1) if self._cfg.rescale_acts_by_decoder_norm else None
        k = min(max(1, self.d_in // 2), len(dead))
        pre = selected_preactivations(
            forward.x, self.W_enc_rows[dead], self.b_enc[dead], self._subtracted, lambda pre: self.strongest(pre, k),
            scale=scale, workspace=state.workspace, precision=state.precision,
        )  # fmt: skip
        error = (self.rectify(pre).decode(decoder) - residual).pow(2).sum(-1).mean()
        return error * (_variance(forward.target) / _variance(residual).clamp_min(1e-12))

    @torch.no_grad()
    def inference_form(self) -> SAE:
        sae = super().inference_form()
        assert isinstance(sae, TopKSAE)
        assert sae.b_enc is not None
        norms = sae._decoder_norms()
        sae.W_enc_rows.mul_(norms[:, None])
        sae.b_enc.mul_(norms)
        sae.W_dec.div_(norms[:, None])
        return sae

    def fold_W_dec_norm(self) -> None:
        if not self._cfg.rescale_acts_by_decoder_norm:
            raise PlatformError(
                "Folding decoder norms would change which features are the k largest: this SAE was trained with "
                "rescale_acts_by_decoder_norm = false."
            )
        super().fold_W_dec_norm()

    def _decoder_norms(self) -> Tensor:
        """Norms in the units of the model's activations, so that features mean the same before and after folding;
        1 where features are not rescaled."""
        if not self._cfg.rescale_acts_by_decoder_norm:
            return self.W_dec.new_ones(self.d_sae)
        norms: Tensor = self.W_dec.norm(dim=-1).clamp_min(1e-8)
        return norms if self.input_scale is None else norms / self.input_scale


class AbsTopKSAE(TopKSAE):
    """Features of both signs: the k pre-activations of largest magnitude, as they are."""

    def strongest(self, pre: Tensor, k: int) -> SparseFeatures:
        chosen = largest(pre.abs(), k)
        return chosen.replace(pre.gather(-1, chosen.indices.view(len(pre), k)).flatten())

    def rectify(self, pre: Features) -> Features:
        return pre


def _variance(x: Tensor) -> Tensor:
    """Total variance over the rows of [rows, d], a scalar."""
    return x.var(0, correction=0).sum()
