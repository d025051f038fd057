"""Standard sparse autoencoder: ReLU with an L_p penalty (Bricken et al. 2023, Cunningham et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat

from sae_platform import SAEConfig, hookimpl

if TYPE_CHECKING:
    from sae_platform_standard.model import StandardSAE


class StandardConfig(SAEConfig):
    architecture: Literal["standard"] = "standard"
    l1_coefficient: NonNegativeFloat = Field(1.0, description="weight of the sparsity penalty")
    lp_norm: PositiveFloat = Field(1.0, description="p of the penalty on activations times decoder norms")
    l1_warm_up_steps: NonNegativeInt = Field(0, description="steps over which the penalty rises to its weight")
    use_ghost_grads: bool = Field(False, description="revive dead features by ghost gradients")

    def module(self) -> type[StandardSAE]:
        from sae_platform_standard.model import StandardSAE

        return StandardSAE


@hookimpl
def register_architectures() -> list[type[SAEConfig]]:
    return [StandardConfig]
