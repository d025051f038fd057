"""Llama Scope: JumpReLU on inputs scaled to a mean norm of sqrt(d_in); the scale is folded into the weights here."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sae_platform.components import Contents, SAEConfig
from sae_platform.errors import PlatformError
from sae_platform.releases import ReleasedSAE
from sae_platform_formats.files import dtype_of, metadata_of, settings_in, taken, tensors_in

NAMES = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "encoder.bias", "b_dec": "decoder.bias"}


def read(root: Path, sae: ReleasedSAE) -> Contents:
    folder = root / sae.path
    settings = settings_in(
        folder / "hyperparams.json", "d_model", "jump_relu_threshold", "dataset_average_activation_norm"
    )
    weights = folder / "checkpoints/final.safetensors"
    t = taken(weights, tensors_in(weights), NAMES)
    scale = settings["d_model"] ** 0.5 / settings["dataset_average_activation_norm"]["in"]
    threshold = torch.full((len(t["b_enc"]),), settings["jump_relu_threshold"] * scale)
    return _folded({**t, "threshold": threshold}, sae, scale)


def read_r1(root: Path, sae: ReleasedSAE) -> Contents:
    weights = root / sae.path / "sae_weights.safetensors"
    t = taken(weights, tensors_in(weights), {**NAMES, "threshold": "log_jumprelu_threshold"})
    return _folded({**t, "threshold": t["threshold"].exp()}, sae)


def _folded(t: dict[str, Tensor], sae: ReleasedSAE, in_file: float | None = None) -> Contents:
    c = in_file if sae.norm_scaling_factor is None else sae.norm_scaling_factor
    if c is None:
        raise PlatformError(
            f"{sae.release} {sae.sae_id} needs norm_scaling_factor, which its release file does not give."
        )
    t["W_enc"], t["W_dec"], t["b_dec"] = t["W_enc"].T * c, t["W_dec"].T / c, t["b_dec"] / c
    d_in, d_sae = t["W_enc"].shape
    cfg = SAEConfig(
        architecture="jumprelu", d_in=d_in, d_sae=d_sae, dtype=dtype_of(t["W_enc"]), apply_b_dec_to_input=False,
        metadata=metadata_of(sae),
    )  # fmt: skip
    return Contents(cfg, t)
