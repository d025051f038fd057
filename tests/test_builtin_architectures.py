"""The built-in architectures against their contracts; those that are trained in every input normalisation."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch

from sae_platform import SAE, PlatformError, SAEConfig
from sae_platform.config import read_run
from sae_platform.plugins import installed_plugins
from sae_platform.testing import D_IN, ArchitectureContract, UseContract, one_step

EXTRA: dict[str, dict[str, Any]] = {
    "topk": {"k": 4}, "abstopk": {"k": 4}, "jumprelu": {"bandwidth": 1.0},
    **{name: {"d_out": D_IN} for name in ("transcoder", "skip_transcoder")},
    **{f"jumprelu_{name}": {"d_out": D_IN} for name in ("transcoder", "skip_transcoder")},
    **{f"topk_{name}": {"d_out": D_IN, "k": 4} for name in ("transcoder", "skip_transcoder")},
    "temporal": {"n_heads": 2, "bottleneck_factor": 4, "kval_topk": 5},
}  # fmt: skip
KINDS = installed_plugins().kinds(SAEConfig)
TRAINED = sorted(name for name, config in KINDS.items() if config.trainable)
USED = sorted(name for name, config in KINDS.items() if not config.trainable)
NORMALIZATIONS = ("none", "expected_average_only_in", "layer_norm", "constant_norm_rescale")


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", TRAINED)
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


@pytest.mark.parametrize("architecture", USED)
class TestOnlyUsed(UseContract):
    config: ClassVar[SAEConfig]

    @pytest.fixture(autouse=True)
    def _choose(self, request: pytest.FixtureRequest, architecture: str) -> None:
        request.cls.config = SAEConfig(architecture=architecture, d_in=D_IN, d_sae=24, **EXTRA.get(architecture, {}))

    def test_any_leading_shape_is_encoded_and_decoded(self, sae: SAE, x: torch.Tensor) -> None:
        if sae.cfg.architecture == "temporal":  # whose tokens depend on those before them
            contexts = x.view(2, 2, -1, D_IN)
            one = torch.stack([sae(context) for context in contexts.flatten(0, 1)]).view(contexts.shape)
            torch.testing.assert_close(sae(contexts), one)
            assert sae.encode(contexts).shape == (*contexts.shape[:-1], 24)
        else:
            super().test_any_leading_shape_is_encoded_and_decoded(sae, x)

    def test_it_is_not_trained(self, sae: SAE, x: torch.Tensor, architecture: str) -> None:
        with pytest.raises(PlatformError, match=f"'{architecture}' are loaded and used here, not trained"):
            one_step(sae, x)
        settings = [
            f"sae.architecture={architecture}",
            *(f"sae.{k}={v}" for k, v in EXTRA.get(architecture, {}).items()),
        ]
        with pytest.raises(PlatformError, match="not trained"):
            read_run(settings=settings)


def test_these_architectures_are_built_in() -> None:
    assert TRAINED == ["abstopk", "gated", "jumprelu", "standard", "topk"]
    assert USED == [
        "jumprelu_skip_transcoder", "jumprelu_transcoder", "matching_pursuit", "skip_transcoder", "temporal",
        "topk_skip_transcoder", "topk_transcoder", "transcoder",
    ]  # fmt: skip


def test_matrices_are_stored_as_rows_of_features() -> None:
    sae = SAEConfig(architecture="topk", d_in=5, d_sae=7, k=2).build()
    assert sae.W_enc.shape == (5, 7)
    assert sae.W_dec.shape == (7, 5)
    assert sae.W_enc_rows.is_contiguous()
    assert torch.equal(sae.W_enc.T, sae.W_dec)
