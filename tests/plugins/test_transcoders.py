"""Transcoders against their formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from formulas import normal
from sae_platform import SAE, SAEConfig

D_IN, D_OUT, D_SAE = 5, 3, 12
FORMS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder", "topk_transcoder",
         "topk_skip_transcoder")  # fmt: skip


def built(architecture: str) -> SAE:
    settings: dict[str, Any] = {"k": 3} if "topk" in architecture else {}
    sae = SAEConfig(
        architecture=architecture, d_in=D_IN, d_out=D_OUT, d_sae=D_SAE, dtype="float64", **settings
    ).build()  # fmt: skip
    with torch.no_grad():
        for number, parameter in enumerate(sae.parameters()):
            parameter.copy_(normal(*parameter.shape, seed=number + 2))
    return sae


@pytest.mark.parametrize("architecture", FORMS)
def test_it_is_its_formula(architecture: str) -> None:
    sae: Any = built(architecture)
    x = normal(4, 2, D_IN)
    features = (x @ sae.W_enc + sae.b_enc).relu()
    if "jumprelu" in architecture:
        features = features * (features > sae.threshold)
    if "topk" in architecture:
        features = features * torch.zeros_like(features).scatter(-1, features.topk(3).indices, 1.0)
    written = features @ sae.W_dec + sae.b_dec
    output = written + x @ sae.W_skip.T if "skip" in architecture else written
    torch.testing.assert_close(sae.encode(x), features)
    torch.testing.assert_close(sae.decode(features), written)
    torch.testing.assert_close(sae.decode(sae.encode_sparse(x)), written.view(-1, D_OUT))
    torch.testing.assert_close(sae.decode(features, x), output)
    torch.testing.assert_close(sae(x), output)
