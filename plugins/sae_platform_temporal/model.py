"""Each attention layer predicts codes from the tokens before; what the predictions leave is coded sparsely."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sae_platform.errors import PlatformError
from sae_platform.sae import SAE
from sae_platform.sparse import SparseFeatures
from sae_platform_temporal import TemporalConfig

EPSILON = 1e-6


class Attention(nn.Module):
    """Causal attention between codes [contexts, tokens, d_sae], with narrow keys and queries."""

    def __init__(self, d_sae: int, n_heads: int, bottleneck_factor: int) -> None:
        super().__init__()
        self._heads = n_heads
        self.k_ctx = nn.Linear(d_sae, d_sae // bottleneck_factor)
        self.q_target = nn.Linear(d_sae, d_sae // bottleneck_factor)
        self.v_ctx = nn.Linear(d_sae, d_sae)
        self.c_proj = nn.Linear(d_sae, d_sae)

    def forward(self, context: Tensor, target: Tensor) -> Tensor:
        k, q, v = (
            each.unflatten(-1, (self._heads, -1)).transpose(1, 2)
            for each in (self.k_ctx(context), self.q_target(target), self.v_ctx(context))
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        predicted: Tensor = self.c_proj(attended.transpose(1, 2).flatten(-2))
        return predicted


class TemporalSAE(SAE):
    """Reads contexts [..., tokens, d_in]: what a token's features are depends on the tokens before it.

    `encode` gives the new features, `predicted` those that context explains; `decode` of the new ones alone needs
    nothing else, and `decode(features, x)` adds what was predicted, as calling the SAE does.
    """

    _cfg: TemporalConfig

    def __init__(self, cfg: TemporalConfig) -> None:
        super().__init__(cfg)
        self.W_dec = nn.Parameter(torch.randn(cfg.d_sae, cfg.width))
        self.b_dec = nn.Parameter(torch.zeros(cfg.width))
        if not cfg.tied_weights:
            self.W_enc_rows = nn.Parameter(torch.randn(cfg.d_sae, cfg.width))
        self.attn_layers = nn.ModuleList(
            Attention(cfg.d_sae, cfg.n_heads, cfg.bottleneck_factor) for _ in range(cfg.n_attn_layers)
        )

    @property
    def W_enc(self) -> Tensor:
        """The encoder as [d_in, d_sae], a view of its rows, or of the decoder's where they are tied."""
        return self.W_dec.T if self._cfg.tied_weights else self.W_enc_rows.T

    def encode(self, x: Tensor) -> Tensor:
        return self._codes(x)[0].view(*x.shape[:-1], self.d_sae)

    def predicted(self, x: Tensor) -> Tensor:
        """The codes that context explains: activations [..., tokens, d_in] to [..., tokens, d_sae], of both signs."""
        return self._codes(x)[1].view(*x.shape[:-1], self.d_sae)

    def forward(self, x: Tensor) -> Tensor:
        new, predicted = self._codes(x)
        return self.decode((new + predicted).view(*x.shape[:-1], self.d_sae))

    def decode(self, features: Tensor | SparseFeatures, x: Tensor | None = None) -> Tensor:
        if isinstance(features, SparseFeatures):
            y = features.decode(self.W_dec)
        else:
            y = features.to(self.W_dec.dtype) @ self.W_dec
        if x is not None:
            y = y + (self.predicted(x) @ self.W_dec).view(y.shape)
        if not self._cfg.tied_weights or self._cfg.apply_b_dec_to_input:
            y = y + self.b_dec
        return y / self._factor

    @property
    def _factor(self) -> float:
        scaled = self._cfg.normalize_activations == "constant_scalar_rescale"
        return self._cfg.activation_normalization_factor if scaled else 1.0

    def _codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """New and predicted codes, [contexts, tokens, d_sae] each."""
        if x.shape[-1] != self.d_in or x.ndim < 2:
            raise PlatformError(
                f"A temporal SAE reads contexts [..., tokens, {self.d_in}] of activations of width {self.d_in}, "
                f"but got {tuple(x.shape)}."
            )
        residual = x.reshape(-1, *x.shape[-2:]).to(self.W_dec.dtype) * self._factor
        if self._cfg.apply_b_dec_to_input:
            residual = residual - self.b_dec
        scale = 1 / (4 * self.d_in)
        predicted = residual.new_zeros(*residual.shape[:-1], self.d_sae)
        for layer in self.attn_layers:
            codes = (residual * scale @ self.W_enc).relu()
            explained = layer(F.pad(codes[:, :-1], (0, 0, 1, 0)), codes).relu()
            direction = explained @ self.W_dec
            length = direction.norm(dim=-1, keepdim=True) + EPSILON
            share = (direction * residual).sum(-1, keepdim=True) / length.pow(2)
            predicted = predicted + explained * share
            residual = residual - share * direction
        return self._fired((residual * scale @ self.W_enc).relu()), predicted

    def _fired(self, codes: Tensor) -> Tensor:
        k = self._cfg.kval_topk
        if self._cfg.sae_diff_type == "relu" or k is None:
            return codes
        top = codes.topk(k, dim=-1)
        return torch.zeros_like(codes).scatter(-1, top.indices, top.values)
