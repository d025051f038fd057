"""The end of a run: save the SAE, read it back, hold it to what training measured, and evaluate it."""

from __future__ import annotations

import json
import math
import shutil

import torch
from torch import Tensor

from sae_platform import metrics, weights
from sae_platform.activations import ActivationSource
from sae_platform.config import RunConfig
from sae_platform.errors import PlatformError
from sae_platform.evaluation import evaluate_with_density
from sae_platform.reporting import Reports
from sae_platform.runs import write_atomic
from sae_platform.sae import SAE
from sae_platform.signals import StopSignals

TOLERANCE = {"bfloat16": 3e-2}  # folding rounds the weights


def finish(
    reports: Reports, run: RunConfig, sae: SAE, source: ActivationSource, x: Tensor, signals: StopSignals
) -> dict[str, float]:
    """Leave `sae/` and evaluation.json in the run directory; a reloaded SAE that measures differently is said loudly.

    `x` [rows, d_in] is data to compare the trained and the reloaded SAE on.
    """
    writer = reports.writer
    sae.eval()
    reports.say("Saving, reloading and evaluating on held-out data.")
    temporary = writer.path / ".sae"
    try:
        weights.save(sae.inference_form(), temporary)
        temporary.rename(writer.sae_path)
    except Exception as error:  # safetensors reports a full disk as its own error
        shutil.rmtree(temporary, ignore_errors=True)
        raise PlatformError(f"The SAE {writer.sae_path} cannot be written: {error}. Checkpoints are intact.") from error
    reloaded = SAE.load_from_disk(writer.sae_path, device=run.training.device)
    _verify(reports, _measured(sae, x), _measured(reloaded, x), TOLERANCE.get(run.training.dtype, 1e-3))

    signals.at_once = f'Stopped during the evaluation. The SAE is finished: SAE.load_from_disk("{writer.sae_path}").'
    results, density = evaluate_with_density(reloaded, source, run.evaluation)
    weights.save_sparsity(writer.sae_path, (density + 1e-10).log10())
    write_atomic(writer.path / "evaluation.json", json.dumps(metrics.without_nan(results), indent=1) + "\n")
    return results


@torch.no_grad()
def _measured(sae: SAE, x: Tensor) -> dict[str, float]:
    sums = metrics.ReconstructionSums()
    features = sae.encode_sparse(x)
    sums.add(x, sae.decode(features, x))
    return {"explained_variance": sums.result()["explained_variance"], "l0": features.l0().item()}


def _verify(reports: Reports, trained: dict[str, float], reloaded: dict[str, float], tolerance: float) -> None:
    wrong = [
        f"{name} was {value:.5f} in training and is {reloaded[name]:.5f} after reloading"
        for name, value in trained.items()
        if not math.isclose(value, reloaded[name], rel_tol=tolerance, abs_tol=tolerance)
    ]
    if wrong:
        reports.say(f"The saved SAE is not the trained one: {'; '.join(wrong)}. Do not use it.", "error")
    else:
        reports.say("The SAE read back from disk measures the same as the trained one.")
