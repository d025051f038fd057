"""The statistics of training: means between records, dead features, and the step that was not finite."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sae_platform import PlatformError, RunDirectory, train
from sae_platform.activations import Batch
from sae_platform.linear import LinearSAE
from sae_platform.sae import StepOutput, StepState
from sae_platform.sparse import SparseFeatures
from sae_platform.stepping import DEAD_REFRESH_STEPS
from sae_platform.tracking import TrainingStatistics
from tape import BATCH, D_SAE, Step, TapeConfig, a_run, values


def test_what_is_logged_is_the_mean_since_the_last_record(tmp_path: Path) -> None:
    often = train(a_run(), tmp_path, "often")
    seldom = train(a_run(log_every=4), tmp_path, "seldom")
    assert [step for step, _ in seldom.metrics("loss")["loss"]] == [4, 8, 10]
    each = torch.tensor(values(often, "loss"))
    expected = torch.stack([each[:4].mean(), each[4:8].mean(), each[8:].mean()])
    torch.testing.assert_close(torch.tensor(values(seldom, "loss")), expected)


def add(stats: TrainingStatistics, step: int, *features: int) -> None:
    """A step of 40 tokens, on the first of which these of three features fire."""
    x, dense = torch.randn(40, 2), torch.zeros(40, 3)
    dense[0, list(features)] = 1.0
    output = StepOutput({"mse_loss": x.sum()}, SparseFeatures.where(dense != 0, dense), x, x)
    stats.add(step, Batch(x), output, x.sum())


def test_features_rarer_than_a_threshold_are_dead_too() -> None:
    stats = TrainingStatistics(3, 10**6, torch.device("cpu"), rare=0.02, sampling_window=80)
    add(stats, 1, 0, 1)
    assert stats.dead().tolist() == []  # the window is not full
    add(stats, 2, 0)
    assert stats.dead().tolist() == [1, 2]  # 2/80, 1/80 and none
    add(stats, 3, 1)
    assert stats.dead().tolist() == [1, 2]
    add(stats, 4, 1)
    assert stats.dead().tolist() == [0, 2]


def test_features_die_by_tokens_and_live_again() -> None:
    stats = TrainingStatistics(3, dead_window=100, device=torch.device("cpu"))
    add(stats, 1, 0, 1)
    add(stats, 2, 0)
    add(stats, 3, 0)
    assert stats.dead().tolist() == [2]  # silent for 120 tokens from the start; feature 1 for 80
    assert stats.window()["dead_features"] == 1
    add(stats, 4, 0, 2)
    assert stats.dead().tolist() == [1]
    metrics = stats.window()
    assert metrics["dead_fraction"] == pytest.approx(1 / 3)
    assert metrics["l0"] == 2 / 40
    fired = torch.tensor([4 / 160, 1 / 160, 1 / 160])
    torch.testing.assert_close(stats.log_sparsity().float(), fired.log10())


def test_steps_are_told_which_features_are_dead(steps: list[Step], tmp_path: Path) -> None:
    train(a_run(tokens=BATCH * (DEAD_REFRESH_STEPS + 2), dead_feature_window=1), tmp_path)
    known = [step.state.dead for step in steps]
    assert known[:DEAD_REFRESH_STEPS] == [None] * DEAD_REFRESH_STEPS
    assert all(dead is not None and 0 < len(dead) < D_SAE for dead in known[DEAD_REFRESH_STEPS:])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("log_every", [1, 4])
def test_data_that_is_not_finite_stops_the_run_at_its_step(value: float, log_every: int, tmp_path: Path) -> None:
    source = TapeConfig(spoilt_row=2 * BATCH + 5, spoilt_by=value)
    with pytest.raises(PlatformError, match="at step 3 the activations of its batch hold NaN or infinity"):
        train(a_run(source, log_every=log_every, checkpoint_every=2), tmp_path, "spoilt")
    run = RunDirectory(tmp_path / "spoilt")
    assert run.status().state == "failed"
    assert "at step 3 the activations" in run.status().message
    assert [path.name for path in run.checkpoints()] == ["step-00000002"]
    assert not run.sae_path.exists()
    assert all(map(math.isfinite, values(run, "loss")))


def test_a_first_batch_that_is_not_finite_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="at step 1 the activations"):
        train(a_run(TapeConfig(spoilt_row=5)), tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(
    value: float, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain = LinearSAE.step

    def step(sae: LinearSAE, batch: Batch, state: StepState) -> StepOutput:
        output = plain(sae, batch, state)
        trouble = output.reconstruction.sum() * (value if state.step == 4 else 0.0)
        return replace(output, losses={**output.losses, "trouble": trouble})

    monkeypatch.setattr(LinearSAE, "step", step)
    with pytest.raises(PlatformError, match=r"at step 5 the loss is NaN or infinity.*lower lr"):
        train(a_run(checkpoint_every=5), tmp_path, "spoilt")
    run = RunDirectory(tmp_path / "spoilt")
    assert run.status().state == "failed"
    assert run.checkpoints() == []
