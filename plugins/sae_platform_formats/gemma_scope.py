"""Gemma Scope, both generations: JumpReLU without a decoder bias in the encoder's input."""

from __future__ import annotations

from pathlib import Path

from sae_platform.components import Contents, SAEConfig
from sae_platform.errors import PlatformError
from sae_platform.releases import ReleasedSAE
from sae_platform_formats.files import metadata_of, taken, tensors_in


def read(path: Path, sae: ReleasedSAE) -> Contents:
    if sae.site in ("transcoder", "cross_layer_transcoder"):
        raise PlatformError(f"{sae.release} holds transcoders, and no installed architecture is one.")
    found = {name.replace("w_", "W_"): tensor.float() for name, tensor in tensors_in(path).items()}
    t = taken(path, found, {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")})
    d_in, d_sae = t["W_enc"].shape
    if sae.site == "embedding":  # trained on embeddings times sqrt(d_in), which transformers' hook does not have
        t["W_enc"], t["W_dec"] = t["W_enc"] / d_in**0.5, t["W_dec"] * d_in**0.5
    t["threshold"] = t["threshold"].clamp_min(0)  # below zero, relu decides
    cfg = SAEConfig(
        architecture="jumprelu", d_in=d_in, d_sae=d_sae, apply_b_dec_to_input=False, metadata=metadata_of(sae)
    )  # fmt: skip
    return Contents(cfg, t)
