"""Where training data comes from: streams of activations, with or without a language model behind them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sae_platform.components import SAEMetadata

if TYPE_CHECKING:
    from sae_platform.sae import SAE

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Batch:
    """Rows of activations and where they come from."""

    x: Tensor  # [rows, d_in]
    tokens: Tensor | None = None  # [rows] int64, the token at each row
    positions: Tensor | None = None  # [rows] int64, its place in its context


class ActivationSource(ABC):
    """A stream of activation rows of one width, split into training and held-out data."""

    d_in: int
    dtype: torch.dtype  # of the rows
    device: torch.device = torch.device("cpu")  # where they are made
    metadata: SAEMetadata  # recorded with the SAE

    @abstractmethod
    def harvest(self, split: Split, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """One pass over a split: the batches from number `start` on, a function of seed, split and epoch alone."""

    def score(self, sae: SAE) -> dict[str, float]:
        """Metrics that only this source can give, such as agreement with known true features."""
        return {}


@dataclass(frozen=True)
class Contexts:
    """Packed token sequences."""

    tokens: Tensor  # [contexts, context_size] int64
    kept: Tensor  # [contexts, context_size] bool, whose activations count


Replace = Callable[[Tensor], Tensor]


class LanguageModelSource(ActivationSource):
    """Activations at one hook of a language model, which can also run with something else put in their place."""

    causal: bool  # predicts the next token, so that model preservation can be measured

    @abstractmethod
    def contexts(self, split: Split, epoch: int = 0, start: int = 0) -> Iterator[Contexts]:
        """Packed contexts of one pass over a split, from number `start` on."""

    @abstractmethod
    def activations(self, tokens: Tensor) -> Tensor:
        """Activations at the hook, [contexts, context_size, d_in]; the model stops there."""

    @abstractmethod
    def logits(self, tokens: Tensor, replacement: Replace | None = None) -> Tensor:
        """The whole model's logits [contexts, context_size, vocabulary], with the hook's activations replaced."""

    def harvest(self, split: Split, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        for contexts in self.contexts(split, epoch, start):
            positions = torch.arange(contexts.tokens.shape[1]).expand_as(contexts.tokens)
            x = self.activations(contexts.tokens)
            kept = contexts.kept.to(x.device)
            yield Batch(x[kept], contexts.tokens[contexts.kept], positions[contexts.kept])
