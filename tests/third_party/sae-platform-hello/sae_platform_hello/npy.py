"""Activations that another program left in a .npy file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from sae_platform import ActivationSource, Batch, PlatformError, SAEMetadata
from sae_platform.activations import Split

if TYPE_CHECKING:
    from sae_platform_hello import NpyConfig


class NpySource(ActivationSource):
    """Rows of a memory-mapped [rows, d_in] array; the last `held_out_rows` are held out, the others are shuffled."""

    def __init__(self, cfg: NpyConfig, seed: int) -> None:
        try:
            self._rows = np.load(cfg.path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise PlatformError(f"{cfg.path} cannot be read as activations: {error}") from error
        if self._rows.ndim != 2 or len(self._rows) <= cfg.held_out_rows:
            raise PlatformError(
                f"{cfg.path} has shape {self._rows.shape}; it needs [rows, d_in] with more than "
                f"held_out_rows = {cfg.held_out_rows} rows."
            )
        self._cfg, self._seed = cfg, seed
        self.d_in = self._rows.shape[1]
        self.dtype = torch.float32
        self.metadata = SAEMetadata(dataset_path=str(cfg.path), source=cfg.model_dump(mode="json"))

    def harvest(self, split: Split, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        trained = len(self._rows) - self._cfg.held_out_rows
        if split == "train":
            order = np.random.default_rng((self._seed, epoch)).permutation(trained)
        else:
            order = np.arange(trained, len(self._rows))
        for first in range(start * self._cfg.batch_rows, len(order), self._cfg.batch_rows):
            rows = self._rows[np.sort(order[first : first + self._cfg.batch_rows])]
            yield Batch(torch.from_numpy(rows.astype(np.float32)))
