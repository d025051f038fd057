"""The TopK architecture's losses and selection against formulas written out here."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from formulas import D_IN, D_SAE, DEAD, ROWS, affine, built, check, limit, mse, normal, reference, same
from sae_platform import SAEConfig
from sae_platform.testing import one_step


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("dead", [DEAD, torch.tensor([2])], ids=["many dead", "one dead"])
def test_its_losses_are_those_of_the_paper(dead: Tensor, sparse: bool) -> None:
    sae = built("topk", aux_loss_coefficient=0.7)
    x, w = normal(ROWS, D_IN), reference(sae)
    pre, norms = affine(w, x), w["W_dec"].norm(dim=1).detach()
    kept = torch.zeros_like(pre).scatter(1, (pre * norms).topk(3).indices, 1.0)
    f = (pre * kept).relu()
    y = f @ w["W_dec"] + w["b_dec"]
    residual = (x - y).detach()
    strongest = (pre[:, dead] * norms[dead]).topk(min(D_IN // 2, len(dead))).indices
    ghost = (pre[:, dead] * torch.zeros(ROWS, len(dead)).double().scatter(1, strongest, 1.0)).relu()
    variances = [(t - t.mean(0)).square().sum() for t in (x, residual)]
    relative = variances[0] / variances[1]
    assert (pre.topk(3).indices.sort().values != (pre * norms).topk(3).indices.sort().values).any()
    assert (ghost > 0).any()
    assert (pre[:, dead].gather(1, strongest) < 0).any()
    expected = {"mse_loss": mse(y, x), "auxiliary_loss": 0.7 * relative * mse(ghost @ w["W_dec"][dead], residual)}
    check(sae, one_step(sae, x, dead=dead, sparse_below=limit(sparse)).losses, w, expected)


def test_the_auxiliary_loss_reaches_the_dead_and_leaves_the_live_alone() -> None:
    sae = built("topk")
    one_step(sae, normal(64, D_IN), dead=DEAD).losses["auxiliary_loss"].backward()  # type: ignore[no-untyped-call]
    for rows in (sae.W_enc_rows.grad, sae.W_dec.grad):
        assert rows is not None
        assert rows.abs().sum(1).nonzero().squeeze(1).tolist() == DEAD.tolist()


@pytest.mark.parametrize("dead", [None, torch.tensor([], dtype=torch.int64)], ids=["not known yet", "none"])
def test_without_dead_features_there_is_no_auxiliary_loss(dead: Tensor | None) -> None:
    assert one_step(built("topk"), normal(ROWS, D_IN), dead=dead).losses.keys() == {"mse_loss"}


def test_a_coefficient_of_zero_saves_the_auxiliary_work() -> None:
    sae = built("topk", aux_loss_coefficient=0)
    assert one_step(sae, normal(ROWS, D_IN), dead=DEAD).losses.keys() == {"mse_loss"}


def test_a_single_input_dimension_can_revive_too() -> None:
    sae = SAEConfig(architecture="topk", d_in=1, d_sae=4, k=1).build()
    assert one_step(sae, torch.randn(8, 1), dead=torch.tensor([0, 2])).losses["auxiliary_loss"].isfinite()


def test_how_encoder_and_decoder_share_a_scale_changes_nothing() -> None:
    sae, x = built("topk"), normal(ROWS, D_IN)
    twin = copy.deepcopy(sae)
    scales = 10 ** normal(D_SAE, seed=9)
    assert twin.b_enc is not None
    with torch.no_grad():
        twin.W_dec.mul_(scales[:, None])
        twin.W_enc_rows.div_(scales[:, None])
        twin.b_enc.div_(scales)
    same(twin.encode(x), sae.encode(x))
    same(twin(x), sae(x))
    same(twin.decode(twin.encode(x)), twin.decode(twin.encode_sparse(x)))
    for name, loss in one_step(sae, x, dead=DEAD).losses.items():
        same(one_step(twin, x, dead=DEAD).losses[name], loss)


def test_at_most_k_features_are_active() -> None:
    active = (built("topk").encode(normal(64, D_IN)) != 0).sum(1)
    assert active.max() == 3


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
def test_abstopk_keeps_the_largest_magnitudes_with_their_signs(sparse: bool) -> None:
    sae = built("abstopk", k=3, aux_loss_coefficient=0.7, rescale_acts_by_decoder_norm=False)
    x, w = normal(ROWS, D_IN), reference(sae)
    pre = affine(w, x)
    f = pre * torch.zeros_like(pre).scatter(1, pre.abs().topk(3).indices, 1.0)
    assert (f < 0).any()
    y = f @ w["W_dec"] + w["b_dec"]
    residual = (x - y).detach()
    strongest = pre[:, DEAD].abs().topk(min(D_IN // 2, len(DEAD))).indices
    ghost = pre[:, DEAD] * torch.zeros(ROWS, len(DEAD)).double().scatter(1, strongest, 1.0)
    relative = (x - x.mean(0)).square().sum() / (residual - residual.mean(0)).square().sum()
    expected = {"mse_loss": mse(y, x), "auxiliary_loss": 0.7 * relative * mse(ghost @ w["W_dec"][DEAD], residual)}
    check(sae, one_step(sae, x, dead=DEAD, sparse_below=limit(sparse)).losses, w, expected)
    same(sae.eval().encode(x), f)
