"""JumpReLU sparse autoencoder (Rajamanoharan et al. 2024, arXiv 2407.14435): a learnt threshold for each feature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, model_validator

from sae_platform import SAEConfig, hookimpl

if TYPE_CHECKING:
    from sae_platform_jumprelu.model import JumpReLUSAE


class JumpReLUConfig(SAEConfig):
    architecture: Literal["jumprelu"] = "jumprelu"
    l0_coefficient: NonNegativeFloat = Field(1.0, description="weight of the sparsity term")
    l0_warm_up_steps: NonNegativeInt = Field(0, description="steps over which the sparsity term rises to its weight")
    sparsity_loss: Literal["step", "tanh", "quadratic"] = Field(
        "step",
        description="step: the number of active features; tanh: a smooth count of activations times decoder norms; "
        "quadratic: the squared distance of the number of active features from target_l0",
    )
    target_l0: PositiveFloat | None = Field(
        None, description="active features per input that the quadratic loss aims at"
    )
    tanh_scale: PositiveFloat = Field(4.0, description="slope of the tanh loss")
    threshold_init: NonNegativeFloat = Field(0.1, description="threshold of every feature at the start")
    bandwidth: PositiveFloat = Field(0.1, description="width of the window in which a threshold gets a gradient")
    pre_act_loss_coefficient: NonNegativeFloat = Field(0.0, description="weight of the term that revives dead features")

    @model_validator(mode="after")
    def _target_is_used(self) -> Self:
        if (self.target_l0 is None) == (self.sparsity_loss == "quadratic"):
            raise ValueError('target_l0 and sparsity_loss = "quadratic" go together: set both, or neither')
        return self

    def module(self) -> type[JumpReLUSAE]:
        from sae_platform_jumprelu.model import JumpReLUSAE

        return JumpReLUSAE


@hookimpl
def register_architectures() -> list[type[SAEConfig]]:
    return [JumpReLUConfig]
