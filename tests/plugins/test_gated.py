"""The gated architecture's losses against formulas written out here."""

from __future__ import annotations

import pytest

from formulas import D_IN, ROWS, built, check, gradients, limit, mse, normal, reference, same
from sae_platform.testing import one_step


@pytest.mark.parametrize("sparse", [True, False], ids=["sparse", "dense"])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "free"])
def test_its_losses_are_those_of_the_paper(frozen: bool, sparse: bool) -> None:
    sae = built("gated", l1_coefficient=0.7, freeze_auxiliary_decoder=frozen)
    x, w = normal(ROWS, D_IN), reference(sae)
    centred = x - w["b_dec"]
    gate = centred @ w["W_enc"] + w["b_gate"]
    magnitude = centred @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"]
    f = (gate > 0) * magnitude.relu()
    W_dec, b_dec = (w[name].detach() if frozen else w[name] for name in ("W_dec", "b_dec"))
    by_gate = gate.relu() @ W_dec + b_dec
    expected = {
        "mse_loss": mse(f @ w["W_dec"] + w["b_dec"], x),
        "l1_loss": 0.7 * (gate.relu() * W_dec.norm(dim=1)).sum(1).mean(),
        "auxiliary_reconstruction_loss": mse(by_gate, x),
    }
    assert ((gate > 0) & (magnitude < 0)).any()
    assert ((gate < 0) & (magnitude > 0)).any()
    output = one_step(sae, x, sparse_below=limit(sparse))
    same(output.features.dense(), f)
    check(sae, output.losses, w, expected)


def test_the_auxiliary_path_teaches_the_gate_but_not_the_decoder() -> None:
    sae = built("gated", apply_b_dec_to_input=False)  # so that b_dec is the decoder's alone
    one_step(sae, normal(ROWS, D_IN)).losses["auxiliary_reconstruction_loss"].backward()  # type: ignore[no-untyped-call]
    taught = {name for name, gradient in gradients(sae).items() if gradient.any()}
    assert taught == {"W_enc", "b_gate"}


def test_it_has_no_encoder_bias() -> None:
    sae = built("gated")
    assert sae.b_enc is None
    assert set(dict(sae.named_parameters())) == {"W_enc_rows", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"}
