"""SAELens' own trainer step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor

from benchmarks.cases import SIZES, Case
from benchmarks.data import Data
from benchmarks.steps import BANDWIDTH, L0, L1


def build(case: Case, data: Data, lr: float) -> Callable[[Tensor], float]:
    size = SIZES[case.size]
    shared: dict[str, Any] = {"d_in": size.d_in, "d_sae": size.d_sae, "device": str(data.rows.device)}
    sparse = case.setting == "use_sparse_activations"
    sae: Any
    if case.architecture == "topk":
        cfg = TopKTrainingSAEConfig(
            **shared, k=case.l0, aux_loss_coefficient=0.0, use_sparse_activations=sparse,
            rescale_acts_by_decoder_norm=not sparse,  # together they fail in backward: aten::view of a sparse tensor
        )  # fmt: skip
        sae = TopKTrainingSAE(cfg)
    elif case.architecture == "standard":
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(**shared, l1_coefficient=L1))
    elif case.architecture == "jumprelu":
        sae = JumpReLUTrainingSAE(JumpReLUTrainingSAEConfig(**shared, l0_coefficient=L0, jumprelu_bandwidth=BANDWIDTH))
    else:
        sae = GatedTrainingSAE(GatedTrainingSAEConfig(**shared, l1_coefficient=L1))
    with torch.no_grad():
        sae.W_enc.copy_(data.rows.T)
        sae.W_dec.copy_(data.rows)
    data.hold_l0(sae, case.architecture)
    if case.setting == "tf32":
        torch.set_float32_matmul_precision("high")
    settings = SAETrainerConfig(
        total_training_samples=10**9, train_batch_size_samples=size.batch, lr=lr, lr_end=lr, dead_feature_window=10**6,
        device=str(data.rows.device), autocast=case.setting == "autocast",
    )  # fmt: skip
    trainer = SAETrainer(settings, sae, iter(()))

    def step(x: Tensor) -> float:
        output = trainer.step(x)
        trainer.n_training_steps += 1
        return output.loss.item()

    return step
