"""The transformers activation source: texts, packed to contexts, through a frozen model that stops at its hook."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sae_platform.activations import Contexts, LanguageModelSource, Replace, Split
from sae_platform.components import SAEMetadata
from sae_platform.devices import usable_device
from sae_platform.errors import PlatformError
from sae_platform.hooks import HookPoint, find_hook, read, replaced, rows_of, width_at
from sae_platform_transformers.contexts import Packing, tokenized
from sae_platform_transformers.models import EMBEDDED, Checkpoint, find_model
from sae_platform_transformers.texts import open_texts

if TYPE_CHECKING:
    from sae_platform_transformers import LanguageModelConfig


class TransformersSource(LanguageModelSource):
    """Activations of a transformers model at one hook. What is cheap to check is checked before weights are read."""

    def __init__(self, cfg: LanguageModelConfig, seed: int, model: Any = None, tokenizer: Any = None) -> None:
        self.cfg = cfg
        checkpoint = find_model(cfg.model, cfg.model_revision) if model is None else Checkpoint.of(model)
        self.check_hook(checkpoint)
        _check_context_size(cfg, checkpoint)
        self.device = usable_device(cfg.device) if model is None else next(model.parameters()).device
        self.texts = open_texts(cfg, seed)
        self.tokenizer = tokenizer or checkpoint.tokenizer()
        self.packing = Packing.of(cfg.token_policy, self.tokenizer, cfg.context_size)
        self._check_text()

        self.model = self.loaded(checkpoint)
        self._running = Lock()  # a run may harvest in one thread and evaluate in another
        self.causal = checkpoint.causal and cfg.context_size > 1
        self.dtype = getattr(torch, cfg.dtype) if model is None else next(model.parameters()).dtype
        self._hook = self.hook()
        with torch.no_grad():
            self.d_in = width_at(self.model, self._hook, cfg.context_size, self.device)
        self.metadata = SAEMetadata(
            model_name=cfg.model,
            model_revision=checkpoint.commit,
            hook_name=cfg.hook_name,
            dataset_path=cfg.dataset,
            context_size=cfg.context_size,
            token_policy=cfg.token_policy,
            source=cfg.model_dump(mode="json") | {"model": _lasting(cfg.model), "dataset": _lasting(cfg.dataset)},
            **({"model_from_pretrained_kwargs": cfg.processing} if cfg.processing else {}),
        )

    def check_hook(self, checkpoint: Checkpoint) -> None:
        """PlatformError when the model has no such hook, before its weights are read."""
        find_hook(checkpoint.skeleton(), self.cfg.hook_name, self.cfg.processing)

    def loaded(self, checkpoint: Checkpoint) -> Any:
        """The model with its weights."""
        return checkpoint.model(self.cfg.dtype, self.device)

    def hook(self) -> HookPoint:
        """The place to read in the loaded model."""
        return find_hook(self.model, self.cfg.hook_name, self.cfg.processing)

    def contexts(self, split: Split, epoch: int = 0, start: int = 0) -> Iterator[Contexts]:
        size = self.cfg.batch_size
        windows = self._windows(split, epoch)
        rows = list(islice(windows, size))
        if not rows:
            raise PlatformError(self._why_no_context(split))
        special = torch.tensor(self.packing.special, dtype=torch.int64)
        number = 0
        while rows:
            if number >= start:
                tokens = torch.tensor(rows)
                yield Contexts(tokens, ~torch.isin(tokens, special))
            number += 1
            rows = list(islice(windows, size))

    @torch.no_grad()
    def activations(self, tokens: Tensor) -> Tensor:
        tokens = tokens.to(self.device)
        with self._running:
            return rows_of(read(self.model, self._hook, tokens), tokens).to(self.dtype)

    @torch.no_grad()
    def logits(self, tokens: Tensor, replacement: Replace | None = None) -> Tensor:
        if not self.causal:
            raise PlatformError(f"{self.cfg.model!r} is no causal language model, so it has no next-token logits.")
        tokens = tokens.to(self.device)
        with self._running, ExitStack() as stack:
            if replacement is not None:
                stack.enter_context(self._hook.hooked(replaced(replacement, tokens)))
            output = self.model(tokens)
        logits: Tensor = output if isinstance(output, Tensor) else output.logits
        return logits

    def _windows(self, split: Split, epoch: int = 0) -> Iterator[list[int]]:
        return self.packing.windows(tokenized(self.tokenizer, self.texts.documents(split, epoch)))

    def _check_text(self) -> None:
        if next(self._windows("train"), None) is None:
            raise PlatformError(self._why_no_context("train"))

    def _why_no_context(self, split: Split) -> str:
        dataset = f"The dataset {self.cfg.dataset!r}"
        word = "training" if split == "train" else "held-out"
        if next(self.texts.documents(split), None) is not None:
            return f"{dataset} has too little {word} text for one context of {self.cfg.context_size} tokens."
        other: Split = "held_out" if split == "train" else "train"
        if next(self.texts.documents(other), None) is None:
            return f"{dataset} has no document that is not blank."
        return (
            f"{dataset} has no {word} document: about 5 % of all documents are held out, each by its hash. "
            "Give more documents."
        )


def _lasting(name: str) -> str:
    """The name of a model or dataset, where it is a path: one that means the same from any folder."""
    path = Path(name).expanduser()
    return str(path.absolute()) if name not in (*EMBEDDED, "stdlib") and path.exists() else name


def _check_context_size(cfg: LanguageModelConfig, checkpoint: Checkpoint) -> None:
    limit = getattr(checkpoint.config.get_text_config(), "max_position_embeddings", None)
    if limit is not None and cfg.context_size > limit:
        raise PlatformError(f"context_size is {cfg.context_size}, but {cfg.model!r} has only {limit} positions.")
