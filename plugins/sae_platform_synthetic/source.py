"""The synthetic activation source: every batch is made from its own place in the run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_platform.activations import ActivationSource, Batch, Split
from sae_platform.components import SAEMetadata
from sae_platform_synthetic.features import mean_max_cosine, spread_directions

if TYPE_CHECKING:
    from sae_platform.sae import SAE
    from sae_platform_synthetic import SyntheticSourceConfig

FACTORS = 8


class SyntheticSource(ActivationSource):
    """Rows of activations [rows, d_in] that are sparse sums of `true_features` [n_features, d_in]."""

    def __init__(self, cfg: SyntheticSourceConfig, seed: int) -> None:
        self.cfg, self.seed = cfg, seed
        self.d_in = cfg.d_in
        self.dtype = getattr(torch, cfg.dtype)
        self.true_features = spread_directions(cfg.n_features, cfg.d_in, _generator("features", cfg.feature_seed))
        loadings = torch.randn(FACTORS, cfg.n_features, generator=_generator("loadings", cfg.feature_seed))
        self._loadings = F.normalize(loadings, dim=0)
        self._threshold = torch.special.ndtri(torch.tensor(1 - cfg.l0 / cfg.n_features, dtype=torch.float64)).item()
        self.metadata = SAEMetadata(source=cfg.model_dump(mode="json"))

    def harvest(self, split: Split, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        cfg = self.cfg
        total = cfg.rows if split == "train" else cfg.held_out_rows
        place = (self.seed, split, epoch) if split == "train" else (split, cfg.feature_seed)
        for number in range(start, -(-total // cfg.batch_size)):
            rows = min(cfg.batch_size, total - number * cfg.batch_size)
            yield Batch(self._rows(rows, _generator(*place, number)).to(self.dtype))

    def mean_max_cosine(self, W_dec: Tensor) -> float:
        """How well rows of W_dec [d_sae, d_in] match the true features: mean of their best cosines, 1 is perfect."""
        return mean_max_cosine(self.true_features, W_dec)

    def score(self, sae: SAE) -> dict[str, float]:
        W_dec = getattr(sae, "W_dec", None)  # not every architecture has one
        return {"mean_max_cosine": self.mean_max_cosine(W_dec)} if isinstance(W_dec, Tensor) else {}

    def activity(self, rows: int, generator: torch.Generator) -> Tensor:
        """Strengths of the true features, [rows, n_features], zero where a feature does not fire."""
        cfg = self.cfg
        latent = torch.randn(rows, cfg.n_features, generator=generator)
        if cfg.correlation:
            shared = torch.randn(rows, FACTORS, generator=generator) @ self._loadings
            latent = (1 - cfg.correlation) ** 0.5 * latent + cfg.correlation**0.5 * shared
        strength = cfg.magnitude_mean + cfg.magnitude_std * torch.randn(rows, cfg.n_features, generator=generator)
        return torch.where(latent > self._threshold, strength.relu(), 0.0)

    def _rows(self, rows: int, generator: torch.Generator) -> Tensor:
        x = self.activity(rows, generator) @ self.true_features
        if self.cfg.noise:
            x += self.cfg.noise * torch.randn(x.shape, generator=generator)
        return x


def _generator(*place: object) -> torch.Generator:
    """Randomness for one place. Hashed, so that an SAE initialised from the same seed does not begin at the truth."""
    return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:8]) >> 1)
