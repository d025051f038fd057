"""W&B offline: what is written is read back with its own tool, and no failure of it reaches a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sae_platform import LoggerConfig, RunConfig, train
from sae_platform_wandb.logger import path_of, shown
from wandb_records import records

pytest.importorskip("wandb")
SMALL = {
    "source": {"kind": "synthetic", "d_in": 8, "n_features": 16},
    "sae": {"architecture": "topk", "d_sae": 32, "k": 3},
    "training": {"tokens": 4_000, "batch_size": 500, "buffer": 2_000, "log_every": 2},
}


def test_a_run_is_written_under_the_names_of_saelens(tmp_path: Path) -> None:
    run = train(
        RunConfig(**SMALL, loggers=[{"kind": "wandb", "mode": "offline", "project": "mine"}]), tmp_path, "first"
    )
    text = "\n".join(records(run.path))
    assert not [event for event in run.events() if "Logger" in event.text]
    for name in ("metrics/l0", "losses/mse_loss", "sparsity/dead_features", "details/current_learning_rate"):
        assert name in text
    steps = {step for step, _ in run.metrics("l0")["l0"]}
    assert steps == {2, 4, 6, 8}


def test_a_wandb_that_fails_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "no such mode")
    run = train(RunConfig(**SMALL, loggers=[{"kind": "wandb"}]), tmp_path, "first")
    assert run.evaluation() is not None
    assert [event for event in run.events() if "Logger WandbLogger raised" in event.text]


def test_without_wandb_the_way_to_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from sae_platform import PlatformError

    monkeypatch.setattr("sae_platform_wandb.find_spec", lambda name: None)
    with pytest.raises(PlatformError, match=r"pip install 'sae-platform\[wandb\]'"):
        LoggerConfig.model_validate({"kind": "wandb"}).build()


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("l0", "metrics/l0"), ("mse_loss", "losses/mse_loss"), ("l1_loss", "losses/l1_loss"),
        ("dead_features", "sparsity/dead_features"), ("l1_coefficient", "details/l1_coefficient"),
        ("ce_loss_score", "model_performance_preservation/ce_loss_score"), ("loss", "losses/overall_loss"),
    ],
)  # fmt: skip
def test_paths(name: str, path: str) -> None:
    assert path_of(name) == path


def test_secrets_are_not_shown() -> None:
    assert shown({"a": [{"api_key": "x"}], "tokens": 3}) == {"a": [{"api_key": "(not shown)"}], "tokens": 3}
    assert json.dumps(shown({"hf_token": "x"})) == '{"hf_token": "(not shown)"}'
