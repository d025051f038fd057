"""Products in lower precision: asked for, rounded as they say, on weights that keep their dtype."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from formulas import ARCHITECTURES, D_IN, ROWS, built, limit, normal
from sae_platform import SAE, train
from sae_platform.activations import Batch
from sae_platform.components import Precision
from sae_platform.linear import LinearSAE
from sae_platform.sae import StepOutput, StepState
from sae_platform.sparse import matmul_precision, selected_preactivations
from sae_platform.sparse.features import SparseFeatures
from tape import a_run, values


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("sparse", [True, False])
def test_a_step_in_bfloat16_is_a_rounded_step_on_weights_that_keep_their_dtype(architecture: str, sparse: bool) -> None:
    x = normal(ROWS, D_IN)
    losses = {}
    for precision in ("full", "bfloat16"):
        sae = built(architecture, dtype="float32")
        coefficients = {name: coefficient.value for name, coefficient in sae.coefficients().items()}
        state = StepState(0, coefficients, sparse_below=limit(sparse), precision=precision)
        loss = torch.stack(list(sae.step(Batch(x), state).losses.values())).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        losses[precision] = loss.item()
        for name, parameter in sae.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.dtype == parameter.grad.dtype == torch.float32, name
    assert losses["bfloat16"] != losses["full"]
    assert losses["bfloat16"] == pytest.approx(losses["full"], rel=0.05)


def test_the_selected_values_are_those_of_the_rounded_product() -> None:
    x, encoder, bias = normal(7, 5).float(), normal(11, 5, seed=2).float(), normal(11, seed=3).float()
    found = selected_preactivations(
        x, encoder, bias, None, lambda pre: SparseFeatures.where(pre > 0, pre), precision="bfloat16"
    )
    product = torch.addmm(bias.bfloat16(), x.bfloat16(), encoder.bfloat16().T).float()
    assert found.values.dtype == torch.float32
    assert torch.equal(found.dense(), product.clamp_min(0))


@pytest.mark.parametrize(("precision", "inside"), [("full", "ieee"), ("tf32", "tf32"), ("bfloat16", "tf32")])
def test_torchs_own_setting_is_put_back(precision: Precision, inside: str) -> None:
    before = torch.backends.cuda.matmul.fp32_precision
    with matmul_precision(precision):
        assert torch.backends.cuda.matmul.fp32_precision == inside
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_a_run_reaches_every_step_with_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def spy(sae: LinearSAE, batch: Batch, state: StepState) -> StepOutput:
        seen.append((state.precision, torch.backends.cuda.matmul.fp32_precision))
        return step(sae, batch, state)

    step = LinearSAE.step
    monkeypatch.setattr(LinearSAE, "step", spy)
    train(a_run(precision="bfloat16"), tmp_path)
    assert seen == 10 * [("bfloat16", "tf32")]


def test_a_run_in_bfloat16_learns_and_saves_float32_weights(tmp_path: Path) -> None:
    run = train(a_run(tokens=2560, precision="bfloat16"), tmp_path)
    losses = values(run, "loss")
    assert losses[-1] < losses[0]
    assert 'precision = "bfloat16"' in run.run_toml.read_text()
    assert {parameter.dtype for parameter in SAE.load_from_disk(run.sae_path).parameters()} == {torch.float32}
