"""OpenAI's sparse_autoencoder: one torch file with the name of its activation beside the tensors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sae_platform.components import Contents, SAEConfig
from sae_platform.errors import PlatformError
from sae_platform.releases import ReleasedSAE
from sae_platform_formats.files import content_of, dtype_of, metadata_of, taken

NAMES = {"W_enc": "encoder.weight", "W_dec": "decoder.weight", "b_enc": "latent_bias", "b_dec": "pre_bias"}


def read(root: Path, sae: ReleasedSAE) -> Contents:
    path = root / sae.path
    found = content_of(path)
    if not isinstance(found, dict):
        raise PlatformError(f"{path} holds no tensors by name.")
    t = taken(path, found, NAMES)
    t["W_enc"], t["W_dec"] = t["W_enc"].T, t["W_dec"].T
    d_in, d_sae = t["W_enc"].shape
    cfg = SAEConfig(
        d_in=d_in, d_sae=d_sae, dtype=dtype_of(t["W_enc"]), metadata=metadata_of(sae), **_activation(path, found)
    )  # fmt: skip
    return Contents(cfg, t)


def _activation(path: Path, found: dict[str, Any]) -> dict[str, Any]:
    """ReLU, or TopK on normalised inputs, as `Autoencoder.from_state_dict` reads them."""
    name, settings = found.get("activation", "ReLU"), found.get("activation_state_dict") or {}
    if name == "ReLU":
        return {"architecture": "standard"}
    if name == "TopK" and isinstance(settings.get("k"), int) and settings.get("postact_fn", "ReLU") == "ReLU":
        return {
            "architecture": "topk", "k": settings["k"], "rescale_acts_by_decoder_norm": False,
            "normalize_activations": "layer_norm",
        }  # fmt: skip
    raise PlatformError(f"{path} fires by {name!r} with {settings}, which no architecture here does.")
