"""The four built-in architectures, each in every input normalisation, against the contract."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from sae_platform import SAEConfig
from sae_platform.plugins import installed_plugins
from sae_platform.testing import D_IN, ArchitectureContract

EXTRA = {"topk": {"k": 4}, "jumprelu": {"bandwidth": 1.0}}
NORMALIZATIONS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", sorted(installed_plugins().kinds(SAEConfig)))
class TestBuiltIn(ArchitectureContract):
    config: ClassVar[SAEConfig]

    @pytest.fixture(autouse=True)
    def _choose(self, request: pytest.FixtureRequest, architecture: str, normalization: str) -> None:
        request.cls.config = SAEConfig(
            architecture=architecture,
            d_in=D_IN,
            d_sae=24,
            normalize_activations=normalization,
            **EXTRA.get(architecture, {}),
        )


def test_the_four_architectures_are_built_in() -> None:
    assert {"standard", "gated", "topk", "jumprelu"} <= installed_plugins().kinds(SAEConfig).keys()


def test_matrices_are_stored_as_rows_of_features() -> None:
    sae = SAEConfig(architecture="topk", d_in=5, d_sae=7, k=2).build()
    assert sae.W_enc.shape == (5, 7)
    assert sae.W_dec.shape == (7, 5)
    assert sae.W_enc_rows.is_contiguous()
    assert torch.equal(sae.W_enc.T, sae.W_dec)
