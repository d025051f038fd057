"""What the architectures share: penalties, sparse steps, normalisation, folding, threads and layouts."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from formulas import ARCHITECTURES, D_IN, D_SAE, DEAD, ROWS, built, limit, normal, same
from sae_platform import SAE, PlatformError, SAEConfig
from sae_platform.activations import Batch
from sae_platform.linear import LinearSAE
from sae_platform.sae import StepOutput, StepState
from sae_platform.sparse import SparseFeatures
from sae_platform.testing import one_step

NORMALIZATIONS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")


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


def trajectory(architecture: str, sparse: bool, dtype: str, steps: int) -> tuple[list[Tensor], list[Tensor]]:
    """Loss terms, and the gradients of all steps with the weights after them, of a training run."""
    sae = built(architecture, dtype=dtype, normalize_activations="layer_norm")
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2, fused=True)
    losses, gradients = [], []
    for step, x in enumerate(normal(steps, ROWS, D_IN)):
        output = one_step(sae, x, step, DEAD, sparse_below=limit(sparse))
        assert isinstance(output.features, SparseFeatures) == sparse
        optimizer.zero_grad()
        torch.stack(list(output.losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        sae.after_step()
        losses += [loss.detach() for loss in output.losses.values()]
        gradients += [p.grad.clone() for p in sae.parameters() if p.grad is not None]
    return losses, [*gradients, *sae.parameters()]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_sparse_step_is_a_dense_step(architecture: str) -> None:
    """Over a training run: 200 steps of Adam from the same start give the same losses, gradients and weights."""
    runs = [trajectory(architecture, sparse, "float64", 200) for sparse in (True, False)]
    for one, other in zip(*([*losses, *rest] for losses, rest in runs), strict=True):
        same(one, other)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_float32_sparse_and_dense_steps_differ_from_float64_only_by_rounding(architecture: str) -> None:
    """20 steps with their weights to 1e-4, the losses of 200 to 1e-2."""
    exact = trajectory(architecture, False, "float64", 20), trajectory(architecture, False, "float64", 200)
    for sparse in (True, False):
        for (losses, rest), steps, rounding in zip(exact, (20, 200), (1e-4, 1e-2), strict=True):
            in_float32 = trajectory(architecture, sparse, "float32", steps)
            pairs = [*zip(in_float32[0], losses, strict=True)]
            if steps == 20:
                pairs += zip(in_float32[1], rest, strict=True)
            for one, other in pairs:
                torch.testing.assert_close(one.double(), other, rtol=rounding, atol=rounding)


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
