"""Activations made of features that are known, so that what an autoencoder finds can be compared with the truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from sae_platform.components import ActivationSourceConfig, Dtype
from sae_platform.hookspecs import hookimpl

if TYPE_CHECKING:
    from sae_platform_synthetic.source import SyntheticSource


class SyntheticSourceConfig(ActivationSourceConfig):
    """Sparse sums of known directions (the toy data of Sharkey et al. 2022, "Taking features out of superposition")."""

    kind: Literal["synthetic"] = "synthetic"
    d_in: PositiveInt = Field(32, description="width of the activations")
    n_features: PositiveInt = Field(64, description="number of true features")
    l0: float = Field(3.0, gt=0, description="expected number of active features; each fires with l0 / n_features")
    correlation: float = Field(0.0, ge=0, le=1, description="how much of what makes features fire is shared by groups")
    magnitude_mean: float = Field(1.0, description="mean strength of a firing feature, before negatives are cut")
    magnitude_std: float = Field(0.2, ge=0, description="standard deviation of that strength")
    noise: float = Field(0.0, ge=0, description="standard deviation of the noise added to every coordinate")
    feature_seed: int = Field(0, description="decides the true features, whatever the seed of the run")
    rows: PositiveInt = Field(1_000_000, description="rows in an epoch")
    held_out_rows: PositiveInt = Field(65_536, description="rows held out, the same in every epoch")
    batch_size: PositiveInt = Field(4096, description="rows made at once")
    dtype: Dtype = Field("float32", description="of the activations")

    @model_validator(mode="after")
    def _features_can_fire(self) -> Self:
        if self.l0 > self.n_features:
            raise ValueError(f"l0 is {self.l0}, more than there are features ({self.n_features})")
        return self

    def build(self, seed: int = 0) -> SyntheticSource:
        """Make the true features. Their seed is feature_seed; `seed` decides which of them fire."""
        from sae_platform_synthetic.source import SyntheticSource

        return SyntheticSource(self, seed)


@hookimpl
def register_activation_sources() -> list[type[ActivationSourceConfig]]:
    return [SyntheticSourceConfig]
