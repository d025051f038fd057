"""f = activate(x W_enc + b_enc), y = f W_dec + b_dec, and x W_skip^T besides where there is a skip connection."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sae_platform.errors import PlatformError
from sae_platform.sae import SAE
from sae_platform.sparse import SparseFeatures, largest
from sae_platform_transcoders import TopKTranscoderConfig, TranscoderConfig


class Transcoder(SAE):
    """W_enc [d_in, d_sae], W_dec [d_sae, d_out], b_dec [d_out]; W_skip [d_out, d_in] and threshold [d_sae] where the
    architecture has them."""

    _cfg: TranscoderConfig

    def __init__(self, cfg: TranscoderConfig) -> None:
        super().__init__(cfg)
        self.d_out = cfg.d_out
        self.W_enc_rows = nn.Parameter(torch.randn(cfg.d_sae, cfg.width) / cfg.width**0.5)
        self.b_enc = nn.Parameter(torch.zeros(cfg.d_sae))
        self.W_dec = nn.Parameter(torch.randn(cfg.d_sae, cfg.d_out) / cfg.d_sae**0.5)
        self.b_dec = nn.Parameter(torch.zeros(cfg.d_out))
        if cfg.jumps:
            self.threshold = nn.Parameter(torch.zeros(cfg.d_sae))
        if cfg.skips:
            self.W_skip = nn.Parameter(torch.randn(cfg.d_out, cfg.width) / cfg.width**0.5)

    @property
    def W_enc(self) -> Tensor:
        """The encoder as [d_in, d_sae], a view of its rows."""
        return self.W_enc_rows.T

    def preactivations(self, x: Tensor) -> Tensor:
        return self._input(x) @ self.W_enc + self.b_enc

    def encode(self, x: Tensor) -> Tensor:
        pre = self.preactivations(x)
        if self._cfg.jumps:
            return pre.relu() * (pre > self.threshold)
        if isinstance(self._cfg, TopKTranscoderConfig):
            return largest(pre.relu().reshape(-1, self.d_sae), self._cfg.k).dense().view(pre.shape)
        return pre.relu()

    def decode(self, features: Tensor | SparseFeatures, x: Tensor | None = None) -> Tensor:
        """Features [..., d_sae] to what they write [..., d_out]; given the input `x`, its skip connection is added."""
        if isinstance(features, SparseFeatures):
            y = features.decode(self.W_dec) + self.b_dec
        else:
            y = features.to(self.W_dec.dtype) @ self.W_dec + self.b_dec
        if x is None or not self._cfg.skips:
            return y
        return y + (self._input(x) @ self.W_skip.T).view(y.shape)

    def forward(self, x: Tensor) -> Tensor:
        """What it writes [..., d_out] for activations [..., d_in]. PlatformError with `use_error_term`."""
        if self.use_error_term:
            raise PlatformError("The error of a transcoder is of what the model writes: attach(model, sae) knows that.")
        return self.decode(self.encode(x), x)

    def _input(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.d_in:
            raise PlatformError(f"This transcoder reads activations of width {self.d_in}, but got {tuple(x.shape)}.")
        return x.to(self.W_dec.dtype)
