"""Temporal SAEs, with attention written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from formulas import normal
from sae_platform import SAE, PlatformError, SAEConfig

D_IN, D_SAE, HEADS = 5, 16, 2


def built(**settings: Any) -> SAE:
    sae = SAEConfig(
        architecture="temporal", d_in=D_IN, d_sae=D_SAE, n_heads=HEADS, n_attn_layers=2, bottleneck_factor=4,
        dtype="float64", **settings,
    ).build()  # fmt: skip
    with torch.no_grad():
        for number, parameter in enumerate(sae.parameters()):
            parameter.copy_(0.4 * normal(*parameter.shape, seed=number + 2))
    return sae


@torch.no_grad()
def attended(layer: Any, context: Tensor, target: Tensor) -> Tensor:
    """Attention of one context [tokens, d_sae], a head and a token at a time."""
    k, q, v = layer.k_ctx(context), layer.q_target(target), layer.v_ctx(context)
    output = torch.zeros_like(v)
    for keys, values, out in zip(range(HEADS), v.chunk(HEADS, -1), output.chunk(HEADS, -1), strict=True):
        mine_k, mine_q = k.chunk(HEADS, -1)[keys], q.chunk(HEADS, -1)[keys]
        for token in range(len(context)):
            weights = (mine_k[: token + 1] @ mine_q[token] / mine_k.shape[-1] ** 0.5).softmax(0)
            out[token] = weights @ values[: token + 1]
    result: Tensor = layer.c_proj(output)
    return result


@torch.no_grad()
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("factor", [None, 0.3])
@pytest.mark.parametrize(("form", "k"), [("topk", 3), ("topk", None), ("relu", None)])
def test_it_is_its_formula(form: str, k: int | None, factor: float | None, tied: bool) -> None:
    scaled = {} if factor is None else {
        "normalize_activations": "constant_scalar_rescale", "activation_normalization_factor": factor
    }  # fmt: skip
    sae: Any = built(sae_diff_type=form, kval_topk=k, tied_weights=tied, **scaled)
    c = factor or 1.0
    x = normal(7, D_IN)
    residual, predicted, scale = c * x - sae.b_dec, torch.zeros(7, D_SAE).double(), 1 / (4 * D_IN)
    for layer in sae.attn_layers:
        codes = (scale * residual @ sae.W_enc).relu()
        before = torch.cat([torch.zeros(1, D_SAE).double(), codes[:-1]])
        explained = attended(layer, before, codes).relu()
        direction = explained @ sae.W_dec
        share = (direction * residual).sum(-1, keepdim=True) / (direction.norm(dim=-1, keepdim=True) + 1e-6) ** 2
        predicted, residual = predicted + share * explained, residual - share * direction
    new = (scale * residual @ sae.W_enc).relu()
    if k:
        new = new * torch.zeros_like(new).scatter(-1, new.topk(k).indices, 1.0)
    assert predicted.abs().max() > 0
    torch.testing.assert_close(sae.encode(x), new)
    torch.testing.assert_close(sae.predicted(x), predicted)
    torch.testing.assert_close(sae.decode(new), (new @ sae.W_dec + sae.b_dec) / c)
    torch.testing.assert_close(sae(x), ((new + predicted) @ sae.W_dec + sae.b_dec) / c)
    torch.testing.assert_close(sae.decode(new, x), sae(x))
    torch.testing.assert_close(sae(torch.stack([x, 2 * x]))[0], sae(x))


def test_a_token_alone_is_no_context() -> None:
    with pytest.raises(PlatformError, match="reads contexts"):
        built().encode(torch.zeros(D_IN).double())


def test_heads_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="does not divide"):
        SAEConfig(architecture="temporal", d_in=D_IN, d_sae=10, n_heads=4)
