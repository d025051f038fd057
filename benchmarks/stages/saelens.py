"""SAELens' stages, with its Hugging Face path to the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from datasets import Dataset
from sae_lens import LanguageModelSAERunnerConfig, LanguageModelSAETrainingRunner, LoggingConfig, TopKTrainingSAEConfig
from sae_lens.load_model import load_model
from sae_lens.training.activations_store import ActivationsStore
from sae_lens.training.mixing_buffer import mixing_buffer

from benchmarks.data import texts
from benchmarks.stages import (
    BATCH,
    BUFFER,
    CONTEXT,
    CONTEXTS,
    D_IN,
    D_SAE,
    LAYER,
    LR,
    TINYPY,
    TOKENS,
    WIDE_BATCH,
    WIDE_BUFFER,
    K,
    Prepared,
    mixing,
    wide_rows,
)


def runner_config(device: str) -> LanguageModelSAERunnerConfig[Any]:
    return LanguageModelSAERunnerConfig(
        sae=TopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=K, device=device),
        model_name=str(TINYPY), model_class_name="AutoModelForCausalLM", hook_name=f"transformer.h.{LAYER}",
        model_from_pretrained_kwargs={"dtype": torch.float32},
        dataset_path="standard library", is_dataset_tokenized=False, context_size=CONTEXT,
        n_batches_in_buffer=BUFFER // CONTEXT, store_batch_size_prompts=CONTEXTS,
        training_tokens=TOKENS, train_batch_size_tokens=BATCH, lr=LR, device=device,
        logger=LoggingConfig(log_to_wandb=False), n_checkpoints=0, checkpoint_path=None, output_path=None,
        verbose=False, exclude_special_tokens=True,
    )  # fmt: skip


def loaded(cfg: LanguageModelSAERunnerConfig[Any], device: str) -> Any:
    return load_model(
        cfg.model_class_name, cfg.model_name, device, cfg.model_from_pretrained_kwargs, hook_names=[cfg.hook_name]
    )


def dataset() -> Dataset:
    return Dataset.from_dict({"text": texts()})


def buffer(device: str) -> Prepared:
    return lambda: mixing([x[:, 0].clone() for x in mixing_buffer(WIDE_BUFFER, WIDE_BATCH, wide_rows())])


def harvest(device: str) -> Prepared:
    cfg = runner_config(device)
    model = loaded(cfg, device)
    store = ActivationsStore.from_config(model, cfg, override_dataset=dataset())

    def run() -> tuple[int, Callable[[], float]]:
        tokens, norms = 0, 0.0
        while tokens < TOKENS:
            x = store.get_filtered_llm_batch()
            tokens += len(x)
            norms += x.norm(dim=-1).sum().item()
        return tokens, lambda: norms / tokens

    return run


def end_to_end(device: str) -> Prepared:
    cfg, text = runner_config(device), dataset()
    loaded(cfg, device)  # imports, and a model that is in the page cache

    def run() -> tuple[int, Callable[[], float]]:
        runner = LanguageModelSAETrainingRunner(cfg, override_dataset=text)
        sae = runner.run()

        @torch.no_grad()
        def explained_variance() -> float:
            x = runner.activations_store.next_batch()
            return (1 - (sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()).item()

        return TOKENS, explained_variance

    return run
