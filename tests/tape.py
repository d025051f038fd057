"""A source of numbered rows, and short runs over it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch

from sae_platform import RunConfig, RunDirectory
from sae_platform.activations import ActivationSource, Batch
from sae_platform.components import ActivationSourceConfig, LoggerConfig, SAEMetadata
from sae_platform.sae import StepState

D_IN, D_SAE, BATCH = 16, 64, 64


class TapeConfig(ActivationSourceConfig):
    """Numbered rows (the number is the row's token), one of which may be spoilt."""

    kind: Literal["tape"] = "tape"
    rows: int = 640
    dtype: str = "float32"
    offset: float = 0.0
    spoilt_row: int = -1
    spoilt_by: float = math.nan

    def build(self, seed: int = 0) -> Tape:
        return Tape(self)


class Tape(ActivationSource):
    def __init__(self, cfg: TapeConfig) -> None:
        self.cfg, self.d_in, self.dtype = cfg, D_IN, getattr(torch, cfg.dtype)
        self.metadata = SAEMetadata()
        self.x = torch.randn(cfg.rows, D_IN, generator=torch.Generator().manual_seed(0)) + cfg.offset

    def harvest(self, split: str, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        x = self.x.clone()
        if split == "train" and self.cfg.spoilt_row >= 0:
            x[self.cfg.spoilt_row, 3] = self.cfg.spoilt_by
        numbers = torch.arange(self.cfg.rows) + epoch * self.cfg.rows
        for place in range(100 * start, self.cfg.rows, 100):
            yield Batch(x[place : place + 100].to(self.dtype), numbers[place : place + 100])


SYNTHETIC = {"kind": "synthetic", "d_in": D_IN, "n_features": 24, "l0": 2.0, "batch_size": 256, "held_out_rows": 512}
SAE_TABLE = {"architecture": "topk", "d_sae": D_SAE, "k": 4, "normalize_activations": "expected_average_only_in"}


def a_run(
    source: ActivationSourceConfig | dict[str, Any] | None = None,
    sae: dict[str, Any] = SAE_TABLE,
    loggers: tuple[LoggerConfig, ...] = (),
    **training: Any,
) -> RunConfig:
    """Ten steps of 64 rows; a buffer of one batch keeps the rows of each step together."""
    settings = {
        "tokens": 640, "batch_size": BATCH, "buffer": BATCH, "lr": 3e-3, "lr_warm_up_steps": 2, "log_every": 1,
        "checkpoint_every": 0, "dead_feature_window": 1000, **training,
    }  # fmt: skip
    return RunConfig(source=source or TapeConfig(), sae=sae, training=settings, loggers=loggers)


class Step:
    """What a training step was given."""

    def __init__(self, batch: Batch, state: StepState) -> None:
        assert batch.tokens is not None
        self.tokens, self.state = batch.tokens.tolist(), state


def texts(run: RunDirectory, level: str) -> list[str]:
    return [event.text for event in run.events() if event.level == level]


def values(run: RunDirectory, name: str) -> list[float]:
    return [value for _, value in run.metrics(name)[name]]
