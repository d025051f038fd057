"""Small SAEs as other projects publish them, for the tests of their formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_platform import SAE
from sae_platform.components import WeightFormat
from sae_platform.releases import ReleasedSAE
from sae_platform.weights import assembled

D_IN, D_SAE, K = 5, 12, 3
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(32, D_IN, generator=GENERATOR)
Tensors = dict[str, Tensor]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=GENERATOR)


def weights() -> Tensors:
    return {"W_enc": normal(D_IN, D_SAE), "W_dec": normal(D_SAE, D_IN), "b_enc": normal(D_SAE), "b_dec": normal(D_IN)}


def layers(t: Tensors, encoder: str = "encoder", decoder: str = "decoder") -> Tensors:
    """As torch's linear layers hold them."""
    return {
        f"{encoder}.weight": t["W_enc"].T.contiguous(), f"{encoder}.bias": t["b_enc"],
        f"{decoder}.weight": t["W_dec"].T.contiguous(),
    }  # fmt: skip


def released(form: str, path: str, **facts: Any) -> ReleasedSAE:
    return ReleasedSAE("a-release", "an-id", "a-model", facts.pop("repo_id", "user/repo"), path, form, **facts)


def read(root: Path, sae: ReleasedSAE) -> SAE:
    form = WeightFormat(kind=sae.format)
    assert all((root / file).is_file() for file in form.files(sae.path))
    return assembled(*form.read(root, sae), "cpu", root)  # type: ignore[misc]


def place(root: Path, path: str) -> Path:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    return root / path


def holds(sae: SAE, features: Tensor, reconstruction: Tensor) -> None:
    torch.testing.assert_close(sae.encode(X), features, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(sae(X), reconstruction, rtol=1e-6, atol=2e-6)


def jumped(pre: Tensor, threshold: Tensor | float) -> Tensor:
    return pre.relu() * (pre > threshold)


def decoded(features: Tensor, t: Tensors) -> Tensor:
    return features @ t["W_dec"] + t["b_dec"]
