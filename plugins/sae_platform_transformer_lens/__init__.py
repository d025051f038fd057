"""Activations of a model in TransformerLens' bridge, at TransformerLens' own hooks."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from sae_platform.components import ActivationSourceConfig
from sae_platform.errors import PlatformError
from sae_platform.hookspecs import hookimpl
from sae_platform_transformers import LanguageModelConfig

if TYPE_CHECKING:
    from sae_platform_transformer_lens.source import TransformerLensSource


class TransformerLensSourceConfig(LanguageModelConfig):
    """A model whose weights TransformerLens processes, where that is asked for."""

    kind: Literal["transformer_lens"] = "transformer_lens"
    fold_ln: bool = Field(False, description="fold the gains of norms into the weights that read them")

    @property
    def processing(self) -> dict[str, Any]:
        return super().processing | ({"fold_ln": True} if self.fold_ln else {})

    def build(self, seed: int = 0) -> TransformerLensSource:
        """Find the text, the model and the hook, in this order.

        PlatformError naming what is missing, TransformerLens too.
        """
        if find_spec("transformer_lens") is None:
            raise PlatformError(
                'The source "transformer_lens" needs TransformerLens 4: '
                "pip install 'sae-platform[transformer-lens]'. The source \"transformers\" does without."
            )
        from sae_platform_transformer_lens.source import TransformerLensSource

        return TransformerLensSource(self, seed)


@hookimpl
def register_activation_sources() -> list[type[ActivationSourceConfig]]:
    return [TransformerLensSourceConfig]
