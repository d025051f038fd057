"""Activations of a model that is loaded already, by the batch: SAELens' ActivationsStore over our sources."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from sae_platform.activations import Batch, LanguageModelSource
from sae_platform.buffer import ShuffleBuffer
from sae_platform.components import ActivationSourceConfig, TokenPolicy
from sae_platform.errors import PlatformError
from sae_platform.hooks import is_centred

if TYPE_CHECKING:
    from sae_platform.sae import SAE
    from sae_platform.saelens.config import LanguageModelSAERunnerConfig


class ActivationsStore:
    """Tokens and activations of a model's training text, again and again from its beginning.

    `model` is a transformers model, a TransformerLens bridge around one, or a HookedSAETransformer, whose SAEs are not
    in effect here; `source` the configuration of a source that takes a model that is loaded.
    """

    def __init__(
        self, model: Any, source: Any, train_batch_size_tokens: int, buffer_tokens: int,
        tokenizer: Any = None, seed: int = 0,
    ) -> None:  # fmt: skip
        """PlatformError when the model has no such hook, or the dataset no text."""
        bare = getattr(model, "bridge", model)
        opened = source.build(seed, model=bare, tokenizer=tokenizer or getattr(model, "tokenizer", None))
        if not isinstance(opened, LanguageModelSource):
            raise PlatformError(f"An ActivationsStore reads a language model, and {type(source).__name__} has none.")
        self.source = opened
        self.d_in = opened.d_in
        self.train_batch_size_tokens = train_batch_size_tokens
        self._contexts = (each.tokens for epoch in count() for each in opened.contexts("train", epoch))
        first = next(self._contexts)
        self.store_batch_size_prompts, self._waiting = len(first), first
        rows: Iterator[Batch] = (batch for epoch in count() for batch in opened.harvest("train", epoch))
        self._buffer = ShuffleBuffer(rows, max(buffer_tokens, train_batch_size_tokens), train_batch_size_tokens, seed)

    @classmethod
    def from_config(cls, model: Any, cfg: LanguageModelSAERunnerConfig, tokenizer: Any = None) -> Self:
        """The store that a run of this configuration trains from."""
        run = cfg.to_run_config()
        tokens = cfg.n_batches_in_buffer * cfg.store_batch_size_prompts * cfg.context_size
        return cls(model, run.source, cfg.train_batch_size_tokens, tokens, tokenizer, cfg.seed)

    @classmethod
    def from_sae(
        cls, model: Any, sae: SAE, dataset: str | None = None, context_size: int | None = None, streaming: bool = True,
        store_batch_size_prompts: int = 8, n_batches_in_buffer: int = 8, train_batch_size_tokens: int = 4096,
        device: str | None = None, tokenizer: Any = None, seed: int = 0,
    ) -> Self:  # fmt: skip
        """The activations that an SAE reads, on the text it was trained on or another `dataset`.

        PlatformError when the SAE does not say where in its model it reads, or `device` is not the model's.
        """
        metadata = sae.cfg.metadata
        if metadata.hook_name is None:
            raise PlatformError("This SAE does not say where it reads: sae.describe(hook_name=...) says it.")
        text = dataset or metadata.dataset_path
        if text is None:
            raise PlatformError("This SAE does not say what it was trained on: give a dataset.")
        size = context_size or metadata.context_size or 128
        policy = (metadata.token_policy or TokenPolicy()).model_copy(update={"context_size": size})
        source = ActivationSourceConfig.model_validate(
            {
                "kind": "transformers", "hook_name": metadata.hook_name, "dataset": text, "streaming": streaming,
                "context_size": size, "batch_size": store_batch_size_prompts, "token_policy": policy,
                "center_writing_weights": is_centred(metadata.hook_name, metadata.processing),
            }
        )  # fmt: skip
        buffer = n_batches_in_buffer * store_batch_size_prompts * size
        store = cls(model, source, train_batch_size_tokens, buffer, tokenizer, seed)
        if device is not None and str(store.source.device).partition(":")[0] != device.partition(":")[0]:
            raise PlatformError(f"device is {device!r}, but the model is on {store.source.device}: move it first.")
        return store

    def get_batch_tokens(self, batch_size: int | None = None) -> Tensor:
        """The next packed contexts, [store_batch_size_prompts, context_size] int64: tokens, not activations."""
        wanted = batch_size or self.store_batch_size_prompts
        while len(self._waiting) < wanted:
            self._waiting = torch.cat([self._waiting, next(self._contexts)])
        found, self._waiting = self._waiting[:wanted], self._waiting[wanted:]
        return found

    def get_activations(self, tokens: Tensor) -> Tensor:
        """Activations at the hook, [contexts, context_size, d_in], of all tokens, special ones too."""
        return self.source.activations(tokens)

    def next_batch(self) -> Tensor:
        """Shuffled activations, [train_batch_size_tokens, d_in]."""
        return next(self._buffer).x

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        return self.next_batch()
