"""The SAE that a finished run holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from sae_platform import SAE, evaluate, train, weights
from tape import D_SAE, SYNTHETIC, a_run, texts


def test_a_finished_run_holds_an_sae_that_measures_as_it_did(tmp_path: Path) -> None:
    run = train(a_run(SYNTHETIC), tmp_path)
    assert "The SAE read back from disk measures the same as the trained one." in texts(run, "info")
    assert run.evaluation() == evaluate(run.path)
    sparsity = load_file(run.sae_path / weights.SPARSITY)["sparsity"]
    assert sparsity.shape == (D_SAE,)
    assert (10**sparsity).sum() == pytest.approx(4, rel=1e-4)
    assert SAE.load_from_disk(run.sae_path).cfg.metadata.source["n_features"] == 24
    assert not [path for path in run.path.iterdir() if path.name.startswith(".sae")]


def test_a_saved_sae_that_is_another_is_said_loudly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    plain = weights.save

    def tampered(sae: SAE, *arguments: Any) -> tuple[Path, ...]:
        with torch.no_grad():
            sae.get_parameter("b_dec").add_(0.1)
        return plain(sae, *arguments)

    monkeypatch.setattr(weights, "save", tampered)
    run = train(a_run(SYNTHETIC), tmp_path)
    (error,) = texts(run, "error")
    assert error.startswith("The saved SAE is not the trained one: explained_variance was ")
    assert error.endswith("Do not use it.")


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_weights_are_trained_and_saved_in_the_dtype_of_the_run(dtype: str, tmp_path: Path) -> None:
    run = train(a_run(dtype=dtype, checkpoint_every=10), tmp_path)
    for folder in (run.sae_path, run.checkpoints()[0] / "sae"):
        assert {str(t.dtype) for t in load_file(folder / weights.WEIGHTS).values()} == {f"torch.{dtype}"}
        assert SAE.load_from_disk(folder).cfg.dtype == dtype
