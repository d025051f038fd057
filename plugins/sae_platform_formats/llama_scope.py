"""Llama Scope: JumpReLU on inputs scaled to a mean norm of sqrt(d_in); the scale is folded into the weights here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_platform.components import Contents, SAEConfig
from sae_platform.errors import PlatformError
from sae_platform.releases import ReleasedSAE
from sae_platform_formats.files import metadata_of, taken, tensors_in

NAMES = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias", "b_dec": "decoder.bias"}


def read(folder: Path, sae: ReleasedSAE) -> Contents:
    settings = _settings(folder / "hyperparams.json")
    weights = folder / "checkpoints/final.safetensors"
    t = taken(weights, tensors_in(weights), NAMES)
    scale = settings["d_model"] ** 0.5 / settings["dataset_average_activation_norm"]["in"]
    threshold = torch.full((len(t["b_enc"]),), settings["jump_relu_threshold"] * scale)
    return _folded({**t, "threshold": threshold}, sae)


def read_r1(folder: Path, sae: ReleasedSAE) -> Contents:
    weights = folder / "sae_weights.safetensors"
    t = taken(weights, tensors_in(weights), {**NAMES, "threshold": "log_jumprelu_threshold"})
    return _folded({**t, "threshold": t["threshold"].exp()}, sae)


def _folded(t: dict[str, Tensor], sae: ReleasedSAE) -> Contents:
    c = sae.norm_scaling_factor
    if c is None:
        raise PlatformError(
            f"{sae.release} {sae.sae_id} needs norm_scaling_factor, which its release file does not give."
        )
    t["W_enc"], t["W_dec"], t["b_dec"] = t["W_enc"].T * c, t["W_dec"].T / c, t["b_dec"] / c
    d_in, d_sae = t["W_enc"].shape
    dtype = str(t["W_enc"].dtype).removeprefix("torch.")
    cfg = SAEConfig(
        architecture="jumprelu", d_in=d_in, d_sae=d_sae, dtype=dtype, apply_b_dec_to_input=False,
        metadata=metadata_of(sae),
    )  # fmt: skip
    return Contents(cfg, t)


def _settings(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        float(content["d_model"]), float(content["jump_relu_threshold"])
        float(content["dataset_average_activation_norm"]["in"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlatformError(f"{path} is not a configuration of Llama Scope: {error!r}.") from error
    return content
