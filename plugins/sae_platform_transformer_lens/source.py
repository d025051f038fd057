"""The transformers source with its model in a bridge."""

from __future__ import annotations

from typing import Any

from sae_platform.hooks import HookPoint, find_hook
from sae_platform.hooks.bridges import process
from sae_platform_transformers.models import Checkpoint
from sae_platform_transformers.source import TransformersSource


class TransformerLensSource(TransformersSource):
    """Activations at a hook of TransformerLens' bridge around a transformers model."""

    def check_hook(self, checkpoint: Checkpoint) -> None:
        """Nothing: which hooks a bridge has is seen once it is there."""

    def loaded(self, checkpoint: Checkpoint) -> Any:
        from transformer_lens.model_bridge import TransformerBridge

        model = super().loaded(checkpoint)
        bridge = TransformerBridge.boot_transformers(
            checkpoint.loading["pretrained_model_name_or_path"],
            hf_model=model, tokenizer=self.tokenizer, device=self.device, dtype=model.dtype,
        )  # fmt: skip
        process(bridge, **self.cfg.processing)
        return bridge

    def hook(self) -> HookPoint:
        return find_hook(self.model, self.cfg.hook_name)
