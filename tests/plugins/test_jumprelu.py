"""The JumpReLU architecture's losses and thresholds against formulas written out here."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from formulas import D_IN, D_SAE, DEAD, ROWS, affine, built, check, limit, mse, normal, reference, same
from sae_platform.testing import one_step


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("kind", ["step", "tanh", "quadratic"])
def test_thresholds_learn_through_the_rectangle_window(kind: str, sparse: bool) -> None:
    target = {"target_l0": 2.5} if kind == "quadratic" else {}
    sae = built("jumprelu", sparsity_loss=kind, l0_coefficient=0.7, tanh_scale=1.5, **target)
    x, w = normal(ROWS, D_IN), reference(sae)
    pre, theta = affine(w, x), w["threshold"]
    active = (pre > theta).double()
    window = ((pre - theta).abs() < 0.8 / 2).double().detach() / 0.8
    falling = -window * (theta - theta.detach())  # 0, with the window's gradient to the threshold
    f = pre * active + theta.detach() * falling
    steps = active + falling
    norms = w["W_dec"].norm(dim=1)
    sparsity = {
        "step": lambda: steps.sum(1).mean(),
        "tanh": lambda: (1.5 * f * norms).tanh().sum(1).mean(),
        "quadratic": lambda: (2 / 2.5 * (steps.sum(1) - 2.5) ** 2).mean(),
    }[kind]()
    assert (window > 0).any()
    assert ((window > 0) & (active == 0)).any()
    expected = {"mse_loss": mse(f @ w["W_dec"] + w["b_dec"], x), "l0_loss": 0.7 * sparsity}
    check(sae, one_step(sae, x, sparse_below=limit(sparse)).losses, w, expected)


def test_dead_features_are_pulled_up_to_their_thresholds() -> None:
    sae = built("jumprelu", pre_act_loss_coefficient=0.7)
    x, w = normal(ROWS, D_IN), reference(sae)
    below = (w["threshold"] - affine(w, x)).relu()[:, DEAD] * w["W_dec"].norm(dim=1)[DEAD]
    losses = one_step(sae, x, dead=DEAD).losses
    check(sae, {"p": losses["pre_act_loss"]}, w, {"p": 0.7 * below.sum(1).mean()})
    for dead in (None, DEAD[:0]):
        assert "pre_act_loss" not in one_step(sae, x, dead=dead).losses


def test_thresholds_stay_at_or_above_zero_in_place() -> None:
    sae = built("jumprelu")
    threshold = sae.threshold
    assert isinstance(threshold, nn.Parameter)
    address = threshold.data_ptr()
    with torch.no_grad():
        threshold.copy_(torch.linspace(-1, 1, D_SAE))
    sae.after_step()
    assert sae.threshold is threshold
    assert threshold.data_ptr() == address
    assert torch.equal(threshold.data, torch.linspace(-1, 1, D_SAE).double().clamp(min=0))


def test_in_use_only_what_exceeds_its_threshold_is_kept() -> None:
    sae, x = built("jumprelu"), normal(ROWS, D_IN)
    w = reference(sae)
    pre = affine(w, x)
    same(sae.encode(x), pre * (pre > w["threshold"]))
    in_training, in_use = sae.density(x), sae.eval().density(x)
    assert len(sae.encode_sparse(x).values) == (pre > w["threshold"]).sum()
    assert in_training > in_use
