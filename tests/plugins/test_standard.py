"""The standard architecture's penalty and ghost gradients against formulas written out here."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from formulas import D_IN, DEAD, ROWS, affine, built, check, gradients, limit, mse, normal, reference
from sae_platform.testing import one_step


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("p", [1.0, 0.5, 2.0])
def test_the_penalty_is_the_lp_norm_weighted_by_decoder_norms(p: float, sparse: bool) -> None:
    sae = built("standard", lp_norm=p, l1_coefficient=0.7)
    x, w = normal(ROWS, D_IN), reference(sae)
    f = affine(w, x).relu()
    terms = f * w["W_dec"].square().sum(1).sqrt()
    powers = torch.where(f > 0, torch.where(f > 0, terms, 1.0) ** p, 0.0)
    expected = {"mse_loss": mse(f @ w["W_dec"] + w["b_dec"], x), "l1_loss": 0.7 * (powers.sum(1) ** (1 / p)).mean()}
    check(sae, one_step(sae, x, sparse_below=limit(sparse)).losses, w, expected)


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("p", [1.0, 0.5, 2.0])
def test_a_batch_in_which_nothing_fires_has_finite_gradients(p: float, sparse: bool) -> None:
    sae = built("standard", lp_norm=p)
    assert sae.b_enc is not None
    sae.b_enc.data.fill_(-100)
    losses = one_step(sae, normal(ROWS, D_IN), sparse_below=limit(sparse)).losses
    losses["l1_loss"].backward()  # type: ignore[no-untyped-call]
    assert losses["l1_loss"] < 1e-9
    assert all((gradient == 0).all() for gradient in gradients(sae).values())


def test_ghost_gradients_are_as_defined() -> None:
    sae = built("standard", use_ghost_grads=True)
    x, w = normal(ROWS, D_IN), reference(sae)
    pre = affine(w, x)
    f = pre.relu()
    y = f @ w["W_dec"] + w["b_dec"]
    r = x - y
    g = pre[:, DEAD].exp() @ w["W_dec"][DEAD]
    g = g * (r.norm(dim=1) / (1e-6 + 2 * g.norm(dim=1)))[:, None].detach()
    mg = (g - r.detach()) ** 2
    scale = ((y - x) ** 2 / (mg + 1e-6)).detach()
    l1 = (f * w["W_dec"].norm(dim=1)).sum(1).mean()
    expected = {"mse_loss": mse(y, x), "l1_loss": l1, "ghost_grad_loss": (scale * mg).mean()}
    check(sae, one_step(sae, x, dead=DEAD).losses, w, expected)


def test_ghost_gradients_reach_the_dead_and_leave_the_live_alone() -> None:
    sae = built("standard", use_ghost_grads=True)
    one_step(sae, normal(ROWS, D_IN), dead=DEAD).losses["ghost_grad_loss"].backward()  # type: ignore[no-untyped-call]
    for rows in (sae.W_enc_rows.grad, sae.W_dec.grad):
        assert rows is not None
        assert rows.abs().sum(1).nonzero().squeeze(1).tolist() == DEAD.tolist()


@pytest.mark.parametrize("dead", [None, torch.tensor([], dtype=torch.int64)], ids=["not known yet", "none"])
def test_without_dead_features_there_are_no_ghosts(dead: Tensor | None) -> None:
    losses = one_step(built("standard", use_ghost_grads=True), normal(ROWS, D_IN), dead=dead).losses
    assert losses.keys() == {"mse_loss", "l1_loss"}


def test_ghosts_come_only_when_called() -> None:
    assert "ghost_grad_loss" not in one_step(built("standard"), normal(ROWS, D_IN), dead=DEAD).losses


@pytest.mark.parametrize("architecture", ["gated", "topk", "jumprelu"])
def test_the_other_architectures_refuse_ghosts(architecture: str) -> None:
    with pytest.raises(ValueError, match="use_ghost_grads"):
        built(architecture, use_ghost_grads=True)
