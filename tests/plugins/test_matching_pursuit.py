"""Matching pursuit, row by row."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from formulas import normal
from sae_platform import SAEConfig

D_IN, D_SAE = 5, 12


def pursued(x: Tensor, rows: Tensor, threshold: float, most: int, stop_on_duplicate: bool) -> Tensor:
    """The features of one input [d_in]."""
    features, residual, support = torch.zeros(len(rows)).double(), x.clone(), set[int]()
    for _ in range(most):
        products = rows @ residual
        best = int(products.relu().argmax())
        value = float(products[best].relu())
        features[best] += value
        residual = residual - value * rows[best]
        found = set(features.nonzero().flatten().tolist())
        if (stop_on_duplicate and found == support) or residual.norm() < threshold:
            break
        support = found
    return features


@pytest.mark.parametrize("stop_on_duplicate", [True, False])
@pytest.mark.parametrize("subtracts", [True, False])
@pytest.mark.parametrize(("threshold", "most"), [(0.01, None), (0.5, None), (0.0, 3)])
def test_it_chooses_like_a_loop(threshold: float, most: int | None, subtracts: bool, stop_on_duplicate: bool) -> None:
    sae = SAEConfig(
        architecture="matching_pursuit", d_in=D_IN, d_sae=D_SAE, dtype="float64", residual_threshold=threshold,
        max_iterations=most, apply_b_dec_to_input=subtracts, stop_on_duplicate_support=stop_on_duplicate,
    ).build()  # fmt: skip
    rows, b_dec, x = F.normalize(normal(D_SAE, D_IN, seed=2), dim=-1), normal(D_IN, seed=3), normal(9, D_IN)
    sae.load_state_dict({"W_dec": rows, "b_dec": b_dec})
    offset = b_dec if subtracts else torch.zeros_like(b_dec)
    expected = torch.stack([pursued(row, rows, threshold, most or D_IN, stop_on_duplicate) for row in x - offset])
    torch.testing.assert_close(sae.encode(x), expected)
    torch.testing.assert_close(sae(x), expected @ rows + offset)
    assert sae.W_enc.shape == (D_IN, D_SAE)


def test_inputs_that_are_nothing_have_no_features() -> None:
    sae = SAEConfig(architecture="matching_pursuit", d_in=D_IN, d_sae=D_SAE).build()
    assert not sae.encode(torch.zeros(2, D_IN)).any()
