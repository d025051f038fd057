"""Again and again the decoder row that fits the residual best, until the residual is small."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sae_platform.errors import PlatformError
from sae_platform.sae import SAE
from sae_platform.sparse import SparseFeatures
from sae_platform_matching_pursuit import MatchingPursuitConfig


class MatchingPursuitSAE(SAE):
    """Tied: the encoder is the decoder's transpose, and b_dec is added where it was subtracted."""

    _cfg: MatchingPursuitConfig

    def __init__(self, cfg: MatchingPursuitConfig) -> None:
        super().__init__(cfg)
        self.W_dec = nn.Parameter(F.normalize(torch.randn(cfg.d_sae, cfg.width), dim=-1))
        self.b_dec = nn.Parameter(torch.zeros(cfg.width))

    @property
    def W_enc(self) -> Tensor:
        """The encoder as [d_in, d_sae], a view of the decoder."""
        return self.W_dec.T

    def encode(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise PlatformError(f"This SAE reads activations of width {self.d_in}, but got {tuple(x.shape)}.")
        cfg, residual = self._cfg, x.reshape(-1, self.d_in).to(self.W_dec.dtype) - self._offset
        features = residual.new_zeros(len(residual), self.d_sae)
        done = torch.zeros(len(residual), dtype=torch.bool, device=residual.device)
        support = features != 0
        for _ in range(cfg.max_iterations or self.d_in):
            best = (residual @ self.W_enc).relu().argmax(-1)
            rows = self.W_dec[best]
            values = (residual * rows).sum(-1).relu() * ~done
            features = features.scatter_add(1, best[:, None], values[:, None])
            residual = residual - values[:, None] * rows
            if cfg.stop_on_duplicate_support:
                before, support = support, features != 0
                done = done | (support == before).all(-1)
            if cfg.residual_threshold:
                done = done | (residual.norm(dim=-1) < cfg.residual_threshold)
            if done.all():
                break
        return features.view(*x.shape[:-1], self.d_sae)

    def decode(self, features: Tensor | SparseFeatures, x: Tensor | None = None) -> Tensor:
        if isinstance(features, SparseFeatures):
            return features.decode(self.W_dec) + self._offset
        return features.to(self.W_dec.dtype) @ self.W_dec + self._offset

    @property
    def _offset(self) -> Tensor:
        return self.b_dec if self._cfg.apply_b_dec_to_input else torch.zeros_like(self.b_dec)
