"""Transcoders of other authors, with relu."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from sae_platform.components import Contents, SAEConfig, SAEMetadata
from sae_platform.releases import ReleasedSAE
from sae_platform_formats.files import dtype_of, metadata_of, settings_in, taken, tensors_in
from sae_platform_formats.gemma_scope import warn_of_sum

NATIVE = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
UNFOLDED = {"fold_ln": False}  # how TransformerLens must load the model for its hooks to hold what was read


def read_hanna(root: Path, sae: ReleasedSAE) -> Contents:
    t = taken(root / sae.path, tensors_in(root / sae.path), NATIVE)
    metadata = metadata_of(
        sae, "blocks.{}.mlp.hook_in", "blocks.{}.hook_mlp_out", model_from_pretrained_kwargs=UNFOLDED
    )
    return _transcoder({**t, "W_enc": t["W_enc"].T}, metadata)


def read_cross_layer(root: Path, sae: ReleasedSAE) -> Contents:
    folder, layer = (root / sae.path).parent, Path(sae.path).name
    settings = settings_in(folder / "config.yaml", "model_name", "feature_input_hook", "feature_output_hook")
    encoder, decoder = (folder / f"{name}_{layer}.safetensors" for name in ("W_enc", "W_dec"))
    t = taken(encoder, tensors_in(encoder), {name: f"{name}_{layer}" for name in ("W_enc", "b_enc", "b_dec")})
    t |= taken(decoder, tensors_in(decoder), {"W_dec": f"W_dec_{layer}"})
    warn_of_sum(sae)
    metadata = metadata_of(
        sae, model_name=settings["model_name"], model_from_pretrained_kwargs=UNFOLDED,
        hook_name=f"blocks.{layer}.{settings['feature_input_hook']}",
        hook_name_out=f"blocks.{layer}.{settings['feature_output_hook']}",
    )  # fmt: skip
    return _transcoder({**t, "W_enc": t["W_enc"].T, "W_dec": t["W_dec"].sum(1)}, metadata)


def _transcoder(t: dict[str, Tensor], metadata: SAEMetadata) -> Contents:
    (d_in, d_sae), d_out = t["W_enc"].shape, t["W_dec"].shape[-1]
    cfg = SAEConfig(
        architecture="transcoder", d_in=d_in, d_out=d_out, d_sae=d_sae, dtype=dtype_of(t["W_enc"]), metadata=metadata
    )  # fmt: skip
    return Contents(cfg, t)
