"""Activations of a Hugging Face transformers model, stopped at a hook, on text from files, the hub or Python itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt, ValidationInfo, field_validator

from sae_platform.components import ActivationSourceConfig, Dtype, TokenPolicy
from sae_platform.hookspecs import hookimpl

if TYPE_CHECKING:
    from sae_platform_transformers.source import TransformersSource


class LanguageModelConfig(ActivationSourceConfig):
    """A frozen language model, the place in it to read, and the text to run it on."""

    model: str = Field(
        "tinypy",
        description="tinypy (embedded, no network needed), a name of Hugging Face or TransformerLens, or a folder",
    )
    model_revision: str | None = Field(None, description="branch, tag or commit of the model on the hub")
    dataset: str = Field(
        "stdlib",
        description="stdlib (Python's own source code), a .txt, .jsonl or .parquet file, a folder of such files, "
        "a folder written by datasets.save_to_disk, or the name of a hub dataset",
    )
    dataset_config: str | None = Field(None, description="configuration of a hub dataset")
    dataset_split: str = Field("train", description="split of a hub dataset or of a saved dataset dictionary")
    text_column: str = Field("text", description="the column that holds the text, in everything but stdlib and .txt")
    streaming: bool = Field(True, description="read a hub dataset while training instead of downloading it first")
    hook_name: str = Field(
        "blocks.1.hook_resid_post",
        description="where to read: blocks.L.hook_resid_pre, _resid_mid, _resid_post, _mlp_out or _attn_out, "
        "their short forms such as resid_post.L, layers.L, places in a layer such as blocks.L.attn.hook_z, or the path "
        "of any module in the model",
    )
    center_writing_weights: bool = Field(
        False,
        description="read the residual stream without its mean, as TransformerLens has it of models with LayerNorms "
        "whose writing weights it centred",
    )
    context_size: PositiveInt = Field(128, description="tokens in a context, the beginning-of-sequence token included")
    batch_size: PositiveInt = Field(16, description="contexts in one run of the model")
    dtype: Dtype = Field("float32", description="of the model and of the activations")
    device: str = Field("cpu", description="where the model runs: cpu, cuda, cuda:1, mps")
    token_policy: TokenPolicy = Field(
        TokenPolicy(), validate_default=True, description="how contexts are packed and which of their tokens count"
    )

    @field_validator("token_policy")
    @classmethod
    def _with_context_size(cls, policy: TokenPolicy, info: ValidationInfo) -> TokenPolicy:
        size = info.data.get("context_size", policy.context_size)
        if policy.context_size not in (None, size):
            raise ValueError(f"context_size is {policy.context_size} here and {size} in the source; give it once")
        if size == 1 and policy.prepend_bos:
            raise ValueError("a context of 1 token has no room for text behind the one that prepend_bos puts first")
        return policy.model_copy(update={"context_size": size})

    @property
    def processing(self) -> dict[str, Any]:
        """What of TransformerLens' processing of weights is asked for."""
        return {"center_writing_weights": True} if self.center_writing_weights else {}


class TransformersSourceConfig(LanguageModelConfig):
    """A model as transformers loads it."""

    kind: Literal["transformers"] = "transformers"

    def build(self, seed: int = 0, model: Any = None, tokenizer: Any = None) -> TransformersSource:
        """Find the hook, the text and the model, in this order; `model` and `tokenizer` may be given, loaded.

        `model` may be a TransformerLens bridge, too. PlatformError naming what is missing.
        """
        from sae_platform_transformers.source import TransformersSource

        return TransformersSource(self, seed, model, tokenizer)


@hookimpl
def register_activation_sources() -> list[type[ActivationSourceConfig]]:
    return [TransformersSourceConfig]
