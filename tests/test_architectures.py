"""The mathematics of the four architectures against dense formulas written out here, in float64."""

from __future__ import annotations

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sae_platform import SAE, PlatformError, SAEConfig
from sae_platform.activations import Batch
from sae_platform.linear import LinearSAE
from sae_platform.sae import StepOutput, StepState
from sae_platform.sparse import SparseFeatures
from sae_platform.testing import one_step

torch.set_num_threads(1)

ROWS, D_IN, D_SAE = 16, 5, 12
ARCHITECTURES = ("standard", "gated", "topk", "jumprelu")
NORMALIZATIONS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")
EXTRA: dict[str, dict[str, Any]] = {"topk": {"k": 3}, "jumprelu": {"bandwidth": 0.8, "threshold_init": 0.3}}
DEAD = torch.tensor([1, 4, 7])
Losses = dict[str, Tensor]
Weights = dict[str, Tensor]


def normal(*shape: int, seed: int = 1) -> Tensor:
    """The same normal numbers for the same seed, in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def built(architecture: str, **settings: Any) -> LinearSAE:
    """A small SAE whose parameters are all away from their starts, and whose decoder rows differ in norm."""
    settings = {**EXTRA.get(architecture, {}), **settings}
    sae = SAEConfig(architecture=architecture, d_in=D_IN, d_sae=D_SAE, dtype="float64", **settings).build()
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


class TestStandard:
    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
    @pytest.mark.parametrize("p", [1.0, 0.5, 2.0])
    def test_the_penalty_is_the_lp_norm_weighted_by_decoder_norms(self, p: float, sparse: bool) -> None:
        sae = built("standard", lp_norm=p, l1_coefficient=0.7)
        sae.sparse_step = sparse  # type: ignore[misc]
        x, w = normal(ROWS, D_IN), reference(sae)
        f = affine(w, x).relu()
        terms = f * w["W_dec"].square().sum(1).sqrt()
        powers = torch.where(f > 0, torch.where(f > 0, terms, 1.0) ** p, 0.0)
        expected = {"mse_loss": mse(f @ w["W_dec"] + w["b_dec"], x), "l1_loss": 0.7 * (powers.sum(1) ** (1 / p)).mean()}
        check(sae, one_step(sae, x).losses, w, expected)

    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
    @pytest.mark.parametrize("p", [1.0, 0.5, 2.0])
    def test_a_batch_in_which_nothing_fires_has_finite_gradients(self, p: float, sparse: bool) -> None:
        sae = built("standard", lp_norm=p)
        sae.sparse_step = sparse  # type: ignore[misc]
        assert sae.b_enc is not None
        sae.b_enc.data.fill_(-100)
        losses = one_step(sae, normal(ROWS, D_IN)).losses
        losses["l1_loss"].backward()  # type: ignore[no-untyped-call]
        assert losses["l1_loss"] < 1e-9
        assert all((gradient == 0).all() for gradient in gradients(sae).values())

    def test_ghost_gradients_are_as_defined(self) -> None:
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

    def test_ghost_gradients_reach_the_dead_and_leave_the_live_alone(self) -> None:
        sae = built("standard", use_ghost_grads=True)
        one_step(sae, normal(ROWS, D_IN), dead=DEAD).losses["ghost_grad_loss"].backward()  # type: ignore[no-untyped-call]
        for rows in (sae.W_enc_rows.grad, sae.W_dec.grad):
            assert rows is not None
            assert rows.abs().sum(1).nonzero().squeeze(1).tolist() == DEAD.tolist()

    @pytest.mark.parametrize("dead", [None, torch.tensor([], dtype=torch.int64)], ids=["not known yet", "none"])
    def test_without_dead_features_there_are_no_ghosts(self, dead: Tensor | None) -> None:
        losses = one_step(built("standard", use_ghost_grads=True), normal(ROWS, D_IN), dead=dead).losses
        assert losses.keys() == {"mse_loss", "l1_loss"}

    def test_ghosts_come_only_when_called(self) -> None:
        assert "ghost_grad_loss" not in one_step(built("standard"), normal(ROWS, D_IN), dead=DEAD).losses

    @pytest.mark.parametrize("architecture", ["gated", "topk", "jumprelu"])
    def test_the_other_architectures_refuse_ghosts(self, architecture: str) -> None:
        with pytest.raises(ValueError, match="use_ghost_grads"):
            built(architecture, use_ghost_grads=True)


class TestGated:
    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
    def test_its_losses_are_those_of_the_paper(self, sparse: bool) -> None:
        sae = built("gated", l1_coefficient=0.7)
        sae.sparse_step = sparse  # type: ignore[misc]
        x, w = normal(ROWS, D_IN), reference(sae)
        centred = x - w["b_dec"]
        gate = centred @ w["W_enc"] + w["b_gate"]
        magnitude = centred @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]
        f = (gate > 0) * magnitude.relu()
        by_gate = gate.relu() @ w["W_dec"].detach() + w["b_dec"].detach()
        expected = {
            "mse_loss": mse(f @ w["W_dec"] + w["b_dec"], x),
            "l1_loss": 0.7 * (gate.relu() * w["W_dec"].detach().norm(dim=1)).sum(1).mean(),
            "auxiliary_reconstruction_loss": mse(by_gate, x),
        }
        assert ((gate > 0) & (magnitude < 0)).any()
        assert ((gate < 0) & (magnitude > 0)).any()
        output = one_step(sae, x)
        same(output.features.dense(), f)
        check(sae, output.losses, w, expected)

    def test_the_auxiliary_path_teaches_the_gate_but_not_the_decoder(self) -> None:
        sae = built("gated", apply_b_dec_to_input=False)  # so that b_dec is the decoder's alone
        one_step(sae, normal(ROWS, D_IN)).losses["auxiliary_reconstruction_loss"].backward()  # type: ignore[no-untyped-call]
        taught = {name for name, gradient in gradients(sae).items() if gradient.any()}
        assert taught == {"W_enc", "b_gate"}

    def test_it_has_no_encoder_bias(self) -> None:
        sae = built("gated")
        assert sae.b_enc is None
        assert set(dict(sae.named_parameters())) == {"W_enc_rows", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"}


class TestTopK:
    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
    @pytest.mark.parametrize("dead", [DEAD, torch.tensor([2])], ids=["many dead", "one dead"])
    def test_its_losses_are_those_of_the_paper(self, dead: Tensor, sparse: bool) -> None:
        sae = built("topk", aux_loss_coefficient=0.7)
        sae.sparse_step = sparse  # type: ignore[misc]
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
        check(sae, one_step(sae, x, dead=dead).losses, w, expected)

    def test_the_auxiliary_loss_reaches_the_dead_and_leaves_the_live_alone(self) -> None:
        sae = built("topk")
        one_step(sae, normal(64, D_IN), dead=DEAD).losses["auxiliary_loss"].backward()  # type: ignore[no-untyped-call]
        for rows in (sae.W_enc_rows.grad, sae.W_dec.grad):
            assert rows is not None
            assert rows.abs().sum(1).nonzero().squeeze(1).tolist() == DEAD.tolist()

    @pytest.mark.parametrize("dead", [None, torch.tensor([], dtype=torch.int64)], ids=["not known yet", "none"])
    def test_without_dead_features_there_is_no_auxiliary_loss(self, dead: Tensor | None) -> None:
        assert one_step(built("topk"), normal(ROWS, D_IN), dead=dead).losses.keys() == {"mse_loss"}

    def test_a_coefficient_of_zero_saves_the_auxiliary_work(self) -> None:
        sae = built("topk", aux_loss_coefficient=0)
        assert one_step(sae, normal(ROWS, D_IN), dead=DEAD).losses.keys() == {"mse_loss"}

    def test_a_single_input_dimension_can_revive_too(self) -> None:
        sae = SAEConfig(architecture="topk", d_in=1, d_sae=4, k=1).build()
        assert one_step(sae, torch.randn(8, 1), dead=torch.tensor([0, 2])).losses["auxiliary_loss"].isfinite()

    def test_how_encoder_and_decoder_share_a_scale_changes_nothing(self) -> None:
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

    def test_at_most_k_features_are_active(self) -> None:
        active = (built("topk").encode(normal(64, D_IN)) != 0).sum(1)
        assert active.max() == 3


class TestJumpReLU:
    @pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
    @pytest.mark.parametrize("kind", ["step", "tanh", "quadratic"])
    def test_thresholds_learn_through_the_rectangle_window(self, kind: str, sparse: bool) -> None:
        target = {"target_l0": 2.5} if kind == "quadratic" else {}
        sae = built("jumprelu", sparsity_loss=kind, l0_coefficient=0.7, tanh_scale=1.5, **target)
        sae.sparse_step = sparse  # type: ignore[misc]
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
        check(sae, one_step(sae, x).losses, w, expected)

    def test_dead_features_are_pulled_up_to_their_thresholds(self) -> None:
        sae = built("jumprelu", pre_act_loss_coefficient=0.7)
        x, w = normal(ROWS, D_IN), reference(sae)
        below = (w["threshold"] - affine(w, x)).relu()[:, DEAD] * w["W_dec"].norm(dim=1)[DEAD]
        losses = one_step(sae, x, dead=DEAD).losses
        check(sae, {"p": losses["pre_act_loss"]}, w, {"p": 0.7 * below.sum(1).mean()})
        for dead in (None, DEAD[:0]):
            assert "pre_act_loss" not in one_step(sae, x, dead=dead).losses

    def test_thresholds_stay_at_or_above_zero_in_place(self) -> None:
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

    def test_in_use_only_what_exceeds_its_threshold_is_kept(self) -> None:
        sae, x = built("jumprelu"), normal(ROWS, D_IN)
        w = reference(sae)
        pre = affine(w, x)
        same(sae.encode(x), pre * (pre > w["threshold"]))
        in_training, in_use = len(sae.encode_sparse(x).values), len(sae.eval().encode_sparse(x).values)
        assert in_use == (pre > w["threshold"]).sum()
        assert in_training > in_use


@pytest.mark.parametrize(
    ("architecture", "term", "knob"),
    [("standard", "l1", "l1_coefficient"), ("gated", "l1", "l1_coefficient"), ("jumprelu", "l0", "l0_coefficient")],
)
def test_the_sparsity_penalty_warms_up_linearly(architecture: str, term: str, knob: str) -> None:
    sae = built(architecture, **{knob: 3.0, f"{term}_warm_up_steps": 4})
    coefficient = sae.coefficients()[term]
    assert [coefficient.at(step) for step in range(6)] == [0.75, 1.5, 2.25, 3.0, 3.0, 3.0]
    x = normal(ROWS, D_IN)
    first, last = (one_step(sae, x, step=step).losses[f"{term}_loss"] for step in (0, 100))
    same(4 * first, last)
    assert built(architecture, **{knob: 3.0}).coefficients()[term].at(0) == 3.0


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_sparse_step_is_a_dense_step(architecture: str) -> None:
    """Over a training run: 50 steps of Adam from the same start give the same losses, gradients and weights."""
    data = normal(50, ROWS, D_IN)
    runs = []
    for sparse in (True, False):
        sae = built(architecture, normalize_activations="layer_norm")
        sae.sparse_step = sparse  # type: ignore[misc]
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2, fused=True)
        history = []
        for step, x in enumerate(data):
            output = one_step(sae, x, step, DEAD)
            assert isinstance(output.features, SparseFeatures) == sparse
            optimizer.zero_grad()
            torch.stack(list(output.losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            sae.after_step()
            history += [*output.losses.values(), *(p.grad.clone() for p in sae.parameters() if p.grad is not None)]
        runs.append([*history, *sae.parameters()])
    for one, other in zip(*runs, strict=True):
        same(one, other)


KNOBS = {
    "standard": ("l1_coefficient", (0.02, 0.2, 1.0), -1),
    "gated": ("l1_coefficient", (0.02, 0.2, 1.0), -1),
    "jumprelu": ("l0_coefficient", (0.002, 0.05, 0.3), -1),
    "topk": ("k", (1, 2, 4), 1),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_sparsity_knob_moves_l0(architecture: str) -> None:
    generator = torch.Generator().manual_seed(0)
    directions = nn.functional.normalize(torch.randn(16, 8, generator=generator), dim=-1)
    codes = torch.rand(512, 16, generator=generator) * (torch.rand(512, 16, generator=generator) < 0.15)
    x = 3 * codes @ directions
    knob, values, sign = KNOBS[architecture]
    l0 = []
    for value in values:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            extra = {"bandwidth": 0.3} if architecture == "jumprelu" else {}
            sae = SAEConfig(architecture=architecture, d_in=8, d_sae=16, **{knob: value}, **extra).build()
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2, fused=True)
        for step in range(250):
            optimizer.zero_grad()
            torch.stack(list(one_step(sae, x, step).losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            sae.after_step()
        l0.append(sign * sae.eval().encode_sparse(x).l0().item())
    assert l0[0] < l0[1] - 0.2 < l0[2] - 0.4, l0


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_normalisation_encodes_the_scaled_input_and_scales_back(architecture: str, normalization: str) -> None:
    plain = built(architecture)
    sae = built(architecture, normalize_activations=normalization)
    x = 3 + 7 * normal(ROWS, D_IN)
    if normalization == "expected_average_only_in":
        assert sae.input_scale is not None
        sae.input_scale.fill_(0.25)
    mean, std = x.mean(1, keepdim=True), x.var(1, keepdim=True).sqrt() + 1e-5
    to_unit = math.sqrt(D_IN) / x.square().sum(1, keepdim=True).sqrt()
    inner, back = {
        "none": (x, lambda y: y),
        "expected_average_only_in": (x * 0.25, lambda y: y * 4),
        "layer_norm": ((x - mean) / std, lambda y: y * (std - 1e-5) + mean),
        "constant_norm_rescale": (x * to_unit, lambda y: y / to_unit),
    }[normalization]
    units = 4 if architecture == "topk" and normalization == "expected_average_only_in" else 1  # the model's
    same(sae.encode(x), units * plain.encode(inner))
    same(sae(x), back(plain(inner)))
    output = one_step(sae, x)
    same(output.target, inner)
    same(output.losses["mse_loss"], one_step(plain, inner).losses["mse_loss"])


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decode_asks_for_the_input_where_the_output_depends_on_it(architecture: str, normalization: str) -> None:
    sae = built(architecture, normalize_activations=normalization).eval()
    x = normal(2, 3, D_IN)
    features = (sae.encode(x), sae.encode_sparse(x))
    for f, expected in zip(features, (sae(x), sae(x).view(-1, D_IN)), strict=True):
        same(sae.decode(f, x), expected)
        if normalization in ("layer_norm", "constant_norm_rescale"):
            with pytest.raises(PlatformError, match=rf"{normalization}.*decode\(features, x\)"):
                sae.decode(f)
        else:
            same(sae.decode(f), expected)


@pytest.mark.parametrize("apply_b_dec_to_input", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_estimated_scale_is_folded_into_the_weights(architecture: str, apply_b_dec_to_input: bool) -> None:
    x = 40 * normal(ROWS, D_IN)
    settings: dict[str, Any] = {"normalize_activations": "expected_average_only_in"}
    sae = built(architecture, **settings, apply_b_dec_to_input=apply_b_dec_to_input)
    sae.initialise(x)
    target = one_step(sae, x).target
    same(target.norm(dim=1).mean(), torch.tensor(math.sqrt(D_IN), dtype=torch.float64))
    same(sae.b_dec, target.mean(0))
    sae.b_dec.data.add_(0.3)
    folded = sae.eval().inference_form()
    assert isinstance(folded, LinearSAE)
    assert folded.input_scale is None
    assert folded.cfg.normalize_activations == "none"
    assert sae.cfg.normalize_activations == "expected_average_only_in"
    same(folded.encode(x), sae.encode(x))
    same(folded(x), sae(x))
    if architecture == "topk":
        same(folded.W_dec.norm(dim=1), torch.ones(D_SAE).double())


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_interleaved_calls_from_threads_do_not_meet(architecture: str, normalization: str) -> None:
    sae = built(architecture, normalize_activations=normalization)
    inputs = [(10.0**n) * normal(ROWS + n, D_IN, seed=n) for n in range(4)]

    def pieces(x: Tensor) -> tuple[Tensor, ...]:
        losses: StepOutput = sae.step(Batch(x), StepState(coefficients={"l1": 1.0, "l0": 1.0, "aux": 1.0}, dead=DEAD))
        return sae(x), sae.decode(sae.encode_sparse(x), x), torch.stack(list(losses.losses.values()))

    alone = [pieces(x) for x in inputs]
    state = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
    encoded = [sae.encode(x) for x in inputs]
    for x, features, (expected, *_) in zip(inputs, encoded, alone, strict=True):
        assert torch.equal(sae.decode(features, x), expected)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(pieces, inputs * 3))
    for result, expected_pieces in zip(together, alone * 3, strict=True):
        assert all(torch.equal(one, other) for one, other in zip(result, expected_pieces, strict=True))
    assert all(torch.equal(tensor, state[name]) for name, tensor in sae.state_dict().items())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_and_adam_moments_are_stored_like_their_parameters(architecture: str, tmp_path: Path) -> None:
    sae = built(architecture)
    sae.save_model(tmp_path)
    for model in (sae, SAE.load_from_disk(tmp_path), sae.inference_form()):
        optimizer = torch.optim.Adam(model.parameters(), fused=True)
        torch.stack(list(one_step(model, normal(ROWS, D_IN)).losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        for name, parameter in model.named_parameters():
            assert parameter.is_contiguous(), name
            assert parameter.grad is not None, name
            moments = [moment for moment in optimizer.state[parameter].values() if moment.shape == parameter.shape]
            assert len(moments) == 2, name
            assert {t.stride() for t in (parameter.grad, *moments)} == {parameter.stride()}, name
