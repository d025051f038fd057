"""Gated sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from sae_platform import SAEConfig, hookimpl

if TYPE_CHECKING:
    from sae_platform_gated.model import GatedSAE


class GatedConfig(SAEConfig):
    architecture: Literal["gated"] = "gated"
    l1_coefficient: NonNegativeFloat = Field(2.5, description="weight of the sparsity penalty on the gates")
    l1_warm_up_steps: NonNegativeInt = Field(0, description="steps over which the penalty rises to its weight")

    freeze_auxiliary_decoder: bool = Field(
        True,
        description="terms about the gates leave the decoder alone, as in the paper; not so in SAELens",
    )

    def module(self) -> type[GatedSAE]:
        from sae_platform_gated.model import GatedSAE

        return GatedSAE


@hookimpl
def register_architectures() -> list[type[SAEConfig]]:
    return [GatedConfig]
