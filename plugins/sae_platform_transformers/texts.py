"""The documents of a dataset, each either for training or held out, in an order that depends on seed and epoch."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sae_platform.activations import Split
from sae_platform.errors import PlatformError
from sae_platform_transformers.documents import Document, Documents, Listed
from sae_platform_transformers.files import READERS, local_documents
from sae_platform_transformers.models import looks_like_a_path
from sae_platform_transformers.stdlib import is_held_out, stdlib_documents
from sae_platform_transformers.tables import Table, hub_dataset, is_saved_dataset, saved_dataset, text_of

if TYPE_CHECKING:
    from sae_platform_transformers import LanguageModelConfig

ROWS_AT_ONCE = 256
SHUFFLE_BUFFER = 1000


class Texts(ABC):
    """Documents in two splits that no document shares."""

    def documents(self, split: Split, epoch: int = 0) -> Iterator[str]:
        """The texts of one pass over a split; blank ones are left out."""
        for key, text in self.ordered(split, epoch):
            if text.strip() and is_held_out(key) == (split == "held_out"):
                yield text

    @abstractmethod
    def ordered(self, split: Split, epoch: int) -> Iterator[Document]:
        """All documents of both splits, in the order of a pass over `split`."""


class FiniteTexts(Texts):
    """Documents on this machine, permuted: by seed and epoch for training, always in the same way when held out, so
    that the first few are a fair sample of all."""

    def __init__(self, source: Documents, seed: int) -> None:
        self.source, self.seed = source, seed

    def ordered(self, split: Split, epoch: int) -> Iterator[Document]:
        count = len(self.source)
        place = (self.seed, epoch, split) if split == "train" else (split,)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(derived_seed(*place)))
        for start in range(0, count, ROWS_AT_ONCE):
            yield from self.source.take(order[start : start + ROWS_AT_ONCE].tolist())


class StreamedTexts(Texts):
    """Documents read from the hub as they are needed, shuffled within a buffer for training."""

    def __init__(self, dataset: Any, column: str, seed: int) -> None:
        self.dataset, self.column, self.seed = dataset, column, seed

    def ordered(self, split: Split, epoch: int) -> Iterator[Document]:
        dataset = self.dataset
        if split == "train":
            dataset = dataset.shuffle(seed=self.seed, buffer_size=SHUFFLE_BUFFER)
            dataset.set_epoch(epoch)
        for row in dataset:
            text = text_of(row[self.column], self.column)
            yield text, text


def open_texts(cfg: LanguageModelConfig, seed: int) -> Texts:
    """The texts that `cfg.dataset` names. PlatformError when they cannot be found or read."""
    if cfg.dataset == "stdlib":
        _only_one_split(cfg)
        return FiniteTexts(Listed(list(stdlib_documents())), seed)
    path = Path(cfg.dataset).expanduser()
    if is_saved_dataset(path):
        return FiniteTexts(saved_dataset(path, cfg.dataset_split, cfg.text_column), seed)
    if looks_like_a_path(cfg.dataset) or path.suffix in READERS:
        _only_one_split(cfg)
        return FiniteTexts(local_documents(path, cfg.text_column), seed)
    dataset = hub_dataset(cfg)
    if cfg.streaming:
        return StreamedTexts(dataset, cfg.text_column, seed)
    return FiniteTexts(Table(cfg.dataset, dataset, cfg.text_column), seed)


def _only_one_split(cfg: LanguageModelConfig) -> None:
    for key, value, default in (("split", cfg.dataset_split, "train"), ("config", cfg.dataset_config, None)):
        if value != default:
            raise PlatformError(f"dataset_{key} is {value!r}, but {cfg.dataset!r} has none to choose; leave it out.")


def derived_seed(*parts: object) -> int:
    """A seed for this place in the run."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8]) >> 1
