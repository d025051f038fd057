"""Small SAEs in float64, and what holds them to dense formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_platform import SAEConfig
from sae_platform.linear import LinearSAE

ROWS, D_IN, D_SAE = 16, 5, 12
ARCHITECTURES = ("standard", "gated", "topk", "jumprelu")
EXTRA: dict[str, dict[str, Any]] = {"topk": {"k": 3}, "jumprelu": {"bandwidth": 0.8, "threshold_init": 0.3}}
DEAD = torch.tensor([1, 4, 7])
Losses = dict[str, Tensor]
Weights = dict[str, Tensor]


def normal(*shape: int, seed: int = 1) -> Tensor:
    """The same normal numbers for the same seed, in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(architecture: str, **settings: Any) -> LinearSAE:
    """A small SAE whose parameters are all away from their starts, and whose decoder rows differ in norm."""
    settings = {"dtype": "float64", **EXTRA.get(architecture, {}), **settings}
    sae = SAEConfig(architecture=architecture, d_in=D_IN, d_sae=D_SAE, **settings).build()
    assert isinstance(sae, LinearSAE)
    with torch.no_grad():
        for number, parameter in enumerate(sae.parameters()):
            noise = normal(*parameter.shape, seed=number + 2)
            parameter.copy_(0.1 + 0.4 * noise.abs() if parameter is getattr(sae, "threshold", None) else 0.6 * noise)
    return sae.train()


def reference(sae: LinearSAE) -> Weights:
    """Copies of the weights for a formula, under their names on disk; b_enc is 0 where there is none."""
    names = ["W_enc", "W_dec", "b_dec", *(n for n in ("b_gate", "b_mag", "r_mag", "threshold") if hasattr(sae, n))]
    w = {name: getattr(sae, name).detach().clone().requires_grad_() for name in names}
    w["b_enc"] = (torch.zeros(D_SAE).double() if sae.b_enc is None else sae.b_enc.detach().clone()).requires_grad_()
    return w


def gradients(sae: LinearSAE) -> Weights:
    """The gradients of the parameters under their names on disk, zero where there is none."""
    found = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in sae.named_parameters()}
    found["W_enc"] = found.pop("W_enc_rows").T
    return found


def same(actual: Tensor, expected: Tensor) -> None:
    """Equal to 1e-9."""
    torch.testing.assert_close(actual.detach(), expected.detach(), rtol=1e-9, atol=1e-9)


def check(sae: LinearSAE, losses: Losses, w: Weights, expected: Losses) -> None:
    """The loss terms and the gradients of each of them are those of the formula."""
    assert losses.keys() == expected.keys()
    for name in losses:
        same(losses[name], expected[name])
        sae.zero_grad()
        for weight in w.values():
            weight.grad = None
        losses[name].backward(retain_graph=True)  # type: ignore[no-untyped-call]
        expected[name].backward(retain_graph=True)  # type: ignore[no-untyped-call]
        for weight, gradient in gradients(sae).items():
            wanted = w[weight].grad
            same(gradient, torch.zeros_like(gradient) if wanted is None else wanted)


def mse(y: Tensor, x: Tensor) -> Tensor:
    """The reconstruction error: summed over the width, averaged over the rows."""
    return (y - x).square().sum(1).mean()


def affine(w: Weights, x: Tensor) -> Tensor:
    """Pre-activations."""
    return (x - w["b_dec"]) @ w["W_enc"] + w["b_enc"]


def limit(sparse: bool) -> float:
    """The density below which a step is sparse, so that every step is or none."""
    return 2.0 if sparse else 0.0
