"""Checkpoints: what is in them, which are kept, and what a full disk leaves."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_platform import SAE, PlatformError, RunDirectory, SAEConfig, evaluate, train, weights
from sae_platform.activations import Batch
from sae_platform.buffer import ShuffleBuffer
from tape import BATCH, D_IN, D_SAE, SAE_TABLE, SYNTHETIC, Step, TapeConfig, a_run


def test_checkpoints_are_complete_and_their_hashes_true(tmp_path: Path) -> None:
    run = train(a_run(checkpoint_every=4, keep_checkpoints=5), tmp_path)
    assert [path.name for path in run.checkpoints()] == ["step-00000004", "step-00000008"]
    for checkpoint, step in zip(run.checkpoints(), (4, 8), strict=True):
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        assert (manifest["format"], manifest["step"], manifest["tokens"]) == (1, step, step * BATCH)
        found = {path.relative_to(checkpoint).as_posix(): path for path in checkpoint.rglob("*") if path.is_file()}
        del found["manifest.json"]
        assert manifest["files"] == {
            name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for name, path in found.items()
        }
        assert found.keys() == {
            "training.safetensors", "optimizer.safetensors", "data_state.safetensors",
            "sae/cfg.json", "sae/sae_weights.safetensors", "sae/sparsity.safetensors",
        }  # fmt: skip


def test_only_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    run = train(a_run(checkpoint_every=2, keep_checkpoints=2), tmp_path)
    assert sorted(path.name for path in run.checkpoints_path.iterdir()) == ["step-00000008", "step-00000010"]


@pytest.mark.parametrize("normalization", ["none", "expected_average_only_in", "layer_norm", "constant_norm_rescale"])
def test_the_sae_in_a_checkpoint_is_the_one_in_training_ready_for_use(normalization: str, tmp_path: Path) -> None:
    table = {**SAE_TABLE, "normalize_activations": normalization}
    run = train(a_run({**SYNTHETIC, "magnitude_mean": 9.0}, table, checkpoint_every=10), tmp_path)
    (checkpoint,) = run.checkpoints()
    trained = SAEConfig(**table, d_in=D_IN).build().eval()
    trained.load_state_dict(load_file(checkpoint / "training.safetensors"))
    assert ("input_scale" in trained.state_dict()) == (normalization == "expected_average_only_in")
    usable = SAE.load_from_disk(checkpoint / "sae")
    assert usable.cfg.normalize_activations in ("none", "layer_norm", "constant_norm_rescale")
    x = 9 * torch.randn(50, D_IN, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(usable(x), trained(x), rtol=1e-4, atol=1e-4)
    assert evaluate(checkpoint) == run.evaluation()


def test_the_data_goes_on_where_a_checkpoint_was_made(steps: list[Step], tmp_path: Path) -> None:
    run = train(a_run(checkpoint_every=4, keep_checkpoints=1, tokens=600, buffer=256), tmp_path)
    rest = [step.tokens for step in steps[8:]]
    state = load_file(run.checkpoints()[0] / "data_state.safetensors")
    assert state["tokens"] == 8 * BATCH
    assert state["last_fired"].shape == (D_SAE,)

    def stream() -> Iterator[Batch]:
        left = 600 - int(state["rows"])
        for batch in TapeConfig().build().harvest("train", start=int(state["batches"])):
            assert batch.tokens is not None
            yield Batch(batch.x[:left], batch.tokens[:left], None)
            left -= min(left, len(batch.x))

    buffer = ShuffleBuffer(stream(), int(state["capacity"]), BATCH, seed=0)
    buffer.load_state(state)
    assert [batch.tokens.tolist() for batch in buffer if batch.tokens is not None] == rest


def test_the_optimizer_is_kept_by_parameter(tmp_path: Path) -> None:
    (checkpoint,) = train(a_run(checkpoint_every=10), tmp_path).checkpoints()
    parameters = load_file(checkpoint / "training.safetensors")
    del parameters["input_scale"]
    state = load_file(checkpoint / "optimizer.safetensors")
    assert state.keys() == {f"{name}.{part}" for name in parameters for part in ("step", "exp_avg", "exp_avg_sq")}
    for name, parameter in parameters.items():
        assert state[f"{name}.step"] == 10
        assert state[f"{name}.exp_avg"].shape == state[f"{name}.exp_avg_sq"].shape == parameter.shape
        assert state[f"{name}.exp_avg"].abs().sum() > 0


def full_disk(monkeypatch: pytest.MonkeyPatch, when: Callable[[Path], bool]) -> None:
    """Files of weights for which `when` holds are half written, and then there is no room."""
    plain = weights.save_file

    def save_file(tensors: dict[str, Tensor], path: Path) -> None:
        if when(path):
            path.write_bytes(b"half")
            raise SafetensorError("No space left on device")
        plain(tensors, path)

    monkeypatch.setattr(weights, "save_file", save_file)


def test_a_checkpoint_that_cannot_be_written_is_not_there_and_the_older_one_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    full_disk(monkeypatch, lambda path: path.name == "optimizer.safetensors" and "step-00000008" in str(path))
    with pytest.raises(PlatformError, match="step-00000008 cannot be written: No space left on device"):
        train(a_run(checkpoint_every=4, keep_checkpoints=1), tmp_path, "full")
    run = RunDirectory(tmp_path / "full")
    assert run.status().state == "failed"
    assert [path.name for path in run.checkpoints_path.iterdir()] == ["step-00000004"]
    assert SAE.load_from_disk(run.checkpoints()[0] / "sae").d_sae == D_SAE


def test_a_finished_sae_that_cannot_be_written_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    full_disk(monkeypatch, lambda path: path.name == weights.WEIGHTS and "checkpoints" not in path.parts)
    with pytest.raises(PlatformError, match="sae cannot be written: No space left on device"):
        train(a_run(checkpoint_every=10), tmp_path, "full")
    run = RunDirectory(tmp_path / "full")
    assert run.status().state == "failed"
    assert not [path for path in run.path.iterdir() if "sae" in path.name]
    assert len(run.checkpoints()) == 1
