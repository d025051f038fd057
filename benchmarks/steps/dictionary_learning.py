"""dictionary_learning's own TopK trainer step. Its decoder keeps unit norm, so its losses part slowly from ours."""

from __future__ import annotations

from collections.abc import Callable

import torch
from dictionary_learning.trainers.top_k import TopKTrainer
from torch import Tensor

from benchmarks.cases import SIZES, Case
from benchmarks.data import Data


def build(case: Case, data: Data, lr: float) -> Callable[[Tensor], float]:
    size = SIZES[case.size]
    trainer = TopKTrainer(
        steps=10**6, activation_dim=size.d_in, dict_size=size.d_sae, k=case.l0, layer=0, lm_name="none", lr=lr,
        auxk_alpha=0.0, warmup_steps=0, threshold_start_step=10**6, device=str(data.rows.device),
    )  # fmt: skip
    with torch.no_grad():
        trainer.ae.encoder.weight.copy_(data.rows)
        trainer.ae.decoder.weight.copy_(data.rows.T)
    count = 0

    def step(x: Tensor) -> float:
        nonlocal count
        count += 1  # step 0 would set b_dec to the median of the batch
        return float(trainer.update(count, x))

    return step
