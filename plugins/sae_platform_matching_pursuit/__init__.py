"""Matching pursuit SAE (Costa et al. 2025, arXiv 2506.03093): features are chosen one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt

from sae_platform import SAEConfig, hookimpl

if TYPE_CHECKING:
    from sae_platform_matching_pursuit.model import MatchingPursuitSAE


class MatchingPursuitConfig(SAEConfig):
    trainable: ClassVar[bool] = False
    architecture: Literal["matching_pursuit"] = "matching_pursuit"
    normalize_activations: Literal["none"] = "none"
    residual_threshold: NonNegativeFloat = Field(0.01, description="norm of the residual at which a row is finished")
    max_iterations: PositiveInt | None = Field(None, description="features chosen at most; default: d_in")
    stop_on_duplicate_support: bool = Field(True, description="a row is finished when it chooses no new feature")

    def module(self) -> type[MatchingPursuitSAE]:
        from sae_platform_matching_pursuit.model import MatchingPursuitSAE

        return MatchingPursuitSAE


@hookimpl
def register_architectures() -> list[type[SAEConfig]]:
    return [MatchingPursuitConfig]
