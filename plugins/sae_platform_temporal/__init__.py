"""Temporal SAE (arXiv 2511.01836): attention predicts what context explains, sparse features code what is new."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from sae_platform import SAEConfig, hookimpl

if TYPE_CHECKING:
    from sae_platform_temporal.model import TemporalSAE


class TemporalConfig(SAEConfig):
    trainable: ClassVar[bool] = False
    architecture: Literal["temporal"] = "temporal"
    normalize_activations: Literal["none", "constant_scalar_rescale"] = Field(  # type: ignore[assignment]
        default="none", description="whether inputs are multiplied by activation_normalization_factor"
    )
    activation_normalization_factor: PositiveFloat = 1.0
    n_heads: PositiveInt = Field(8, description="heads of each attention layer")
    n_attn_layers: PositiveInt = Field(1, description="attention layers, each on what the one before left")
    bottleneck_factor: PositiveInt = Field(64, description="d_sae over the width of keys and queries")
    sae_diff_type: Literal["relu", "topk"] = Field("topk", description="which new features fire")
    kval_topk: PositiveInt | None = Field(None, description="how many, for topk; none: all that relu leaves")
    tied_weights: bool = Field(True, description="the encoder is the decoder's transpose")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.d_sae % (self.bottleneck_factor * self.n_heads):
            raise ValueError(
                f"d_sae = {self.d_sae} does not divide by bottleneck_factor x n_heads = "
                f"{self.bottleneck_factor} x {self.n_heads}"
            )
        return self

    def module(self) -> type[TemporalSAE]:
        from sae_platform_temporal.model import TemporalSAE

        return TemporalSAE


@hookimpl
def register_architectures() -> list[type[SAEConfig]]:
    return [TemporalConfig]
