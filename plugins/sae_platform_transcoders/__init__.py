"""Transcoders (Dunefsky et al. 2024, arXiv 2406.11944): they read one place of a model and write another."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt

from sae_platform import SAEConfig, hookimpl

if TYPE_CHECKING:
    from sae_platform_transcoders.model import Transcoder


class TranscoderConfig(SAEConfig):
    """`d_out` may differ from `d_in`, so there is no decoder bias that could be subtracted from the input."""

    trainable: ClassVar[bool] = False
    jumps: ClassVar[bool] = False  # a threshold for each feature
    skips: ClassVar[bool] = False  # a linear connection from input to output

    architecture: str = "transcoder"
    d_out: PositiveInt = Field(description="width of the output")
    apply_b_dec_to_input: Literal[False] = False
    normalize_activations: Literal["none"] = "none"

    def module(self) -> type[Transcoder]:
        from sae_platform_transcoders.model import Transcoder

        return Transcoder


class ReLUTranscoderConfig(TranscoderConfig):
    architecture: Literal["transcoder"] = "transcoder"


class SkipTranscoderConfig(TranscoderConfig):
    """With a linear connection from input to output (Paulo et al. 2025, arXiv 2501.18823)."""

    skips: ClassVar[bool] = True
    architecture: Literal["skip_transcoder"] = "skip_transcoder"


class JumpReLUTranscoderConfig(TranscoderConfig):
    jumps: ClassVar[bool] = True
    architecture: Literal["jumprelu_transcoder"] = "jumprelu_transcoder"


class JumpReLUSkipTranscoderConfig(TranscoderConfig):
    jumps: ClassVar[bool] = True
    skips: ClassVar[bool] = True
    architecture: Literal["jumprelu_skip_transcoder"] = "jumprelu_skip_transcoder"


class TopKTranscoderConfig(TranscoderConfig):
    architecture: Literal["topk_transcoder"] = "topk_transcoder"
    k: PositiveInt = Field(description="active features per input")


class TopKSkipTranscoderConfig(TopKTranscoderConfig):
    skips: ClassVar[bool] = True
    architecture: Literal["topk_skip_transcoder"] = "topk_skip_transcoder"  # type: ignore[assignment]


@hookimpl
def register_architectures() -> list[type[SAEConfig]]:
    return [
        ReLUTranscoderConfig, SkipTranscoderConfig, JumpReLUTranscoderConfig, JumpReLUSkipTranscoderConfig,
        TopKTranscoderConfig, TopKSkipTranscoderConfig,
    ]  # fmt: skip
