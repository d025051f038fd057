"""TopK sparse autoencoder (Gao et al. 2024, arXiv 2406.04093): the k largest pre-activations of each input; and AbsTopK
(arXiv 2510.00404): the k of largest magnitude, with their signs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from sae_platform import SAEConfig, hookimpl

if TYPE_CHECKING:
    from sae_platform_topk.model import TopKSAE


class TopKConfig(SAEConfig):
    architecture: Literal["topk"] = "topk"
    k: PositiveInt = Field(32, description="active features per input")
    decoder_init_norm: float | None = Field(1.0, gt=0, description="norm of the decoder rows at the start")
    aux_loss_coefficient: NonNegativeFloat = Field(1 / 32, description="weight of the term that revives dead features")

    rescale_acts_by_decoder_norm: bool = Field(
        True, description="select by the contribution to the output, as if decoder rows had norm 1"
    )

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}; choose k from 1 to {self.d_sae}")
        return self

    def module(self) -> type[TopKSAE]:
        from sae_platform_topk.model import TopKSAE

        return TopKSAE


class AbsTopKConfig(TopKConfig):
    architecture: Literal["abstopk"] = "abstopk"  # type: ignore[assignment]

    def module(self) -> type[TopKSAE]:
        from sae_platform_topk.model import AbsTopKSAE

        return AbsTopKSAE


@hookimpl
def register_architectures() -> list[type[SAEConfig]]:
    return [TopKConfig, AbsTopKConfig]
