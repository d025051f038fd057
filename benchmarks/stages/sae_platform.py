"""This project's stages, as its training loop uses them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable

from benchmarks.stages import (
    BATCH,
    BUFFER,
    CONTEXT,
    CONTEXTS,
    D_SAE,
    LAYER,
    LR,
    TOKENS,
    WIDE_BATCH,
    WIDE_BUFFER,
    K,
    Prepared,
    mixing,
    wide_rows,
)
from sae_platform import RunConfig, train
from sae_platform.activations import Batch
from sae_platform.buffer import ShuffleBuffer


def run_config(device: str) -> RunConfig:
    return RunConfig(
        source={
            "kind": "transformers", "hook_name": f"blocks.{LAYER}.hook_resid_post", "context_size": CONTEXT,
            "batch_size": CONTEXTS, "device": device,
        },
        sae={"architecture": "topk", "d_sae": D_SAE, "k": K, "normalize_activations": "none"},
        training={
            "tokens": TOKENS, "batch_size": BATCH, "lr": LR, "lr_warm_up_steps": 0, "lr_decay_steps": 0,
            "buffer": BUFFER, "device": device, "checkpoint_every": 0, "dead_feature_window": 2_048_000,
        },
        evaluation={"tokens": 2048, "preservation_tokens": 0},
    )  # fmt: skip


def buffer(device: str) -> Prepared:
    def run() -> tuple[int, Callable[[], float]]:
        shuffled = ShuffleBuffer((Batch(x) for x in wide_rows()), WIDE_BUFFER, WIDE_BATCH, seed=0)
        return mixing([batch.x[:, 0].clone() for batch in shuffled])

    return run


def harvest(device: str) -> Prepared:
    source = run_config(device).source.build(0)

    def run() -> tuple[int, Callable[[], float]]:
        tokens, norms = 0, 0.0
        for batch in source.harvest("train"):
            tokens += len(batch.x)
            norms += batch.x.norm(dim=-1).sum().item()
            if tokens >= TOKENS:
                break
        return tokens, lambda: norms / tokens

    return run


def end_to_end(device: str) -> Prepared:
    """Saving, checking and a short evaluation of the SAE included."""
    run_config(device).source.build(0)  # imports, and a model that is in the page cache

    def run() -> tuple[int, Callable[[], float]]:
        with tempfile.TemporaryDirectory() as folder:
            done = train(run_config(device), folder)
            reached = done.latest()["explained_variance"]
            return TOKENS, lambda: reached

    return run
