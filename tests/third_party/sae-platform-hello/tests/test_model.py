from __future__ import annotations

import pytest
import torch
from sae_platform_hello import BatchTopKConfig

from sae_platform import SAE, Batch, SAEConfig, StepState
from sae_platform.testing import ArchitectureContract

CONFIG = BatchTopKConfig(d_in=8, d_sae=32, k=4, threshold_rate=0.1)


class TestBatchTopK(ArchitectureContract):
    config = CONFIG


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def trained() -> SAE:
    torch.manual_seed(0)
    sae = CONFIG.build()
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-2)
    for step in range(100):
        losses = sae.step(Batch(rows(256)), StepState(step)).losses
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        sae.after_step()
    return sae


def test_its_name_gives_its_config():
    assert SAEConfig(architecture="batchtopk", d_in=8, d_sae=32, k=4, threshold_rate=0.1) == CONFIG


def test_training_keeps_k_features_per_row_on_average_and_rows_differ():
    features = CONFIG.build().step(Batch(rows(256)), StepState()).features
    assert features.l0() == 4
    assert (features.dense() != 0).sum(-1).unique().numel() > 1


def test_use_keeps_about_as_many_and_does_not_depend_on_the_other_rows(trained):
    x = rows(256)
    assert abs((trained.encode(x) != 0).float().sum(-1).mean() - 4) < 1
    torch.testing.assert_close(trained.encode(x)[:3], trained.encode(x[:3]))


def test_the_threshold_survives_saving(trained, tmp_path):
    trained.save_model(tmp_path)
    again = SAE.load_from_disk(tmp_path)
    assert again.threshold == trained.threshold > 0
    assert torch.equal(again(rows(8)), trained(rows(8)))


def test_decoder_rows_keep_norm_one(trained):
    norms = trained.W_dec.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))


def test_dead_features_learn_from_the_residual():
    sae = CONFIG.build()
    output = sae.step(Batch(rows(64)), StepState(0, {"aux": 1.0}, torch.tensor([3, 5])))
    output.losses["auxiliary_loss"].backward()
    assert sae.W_dec.grad[[3, 5]].abs().sum() > 0
