"""Temporal SAEs as their authors publish them: conf.yaml, and D, E, b beside the attention layers."""

from __future__ import annotations

from pathlib import Path

from sae_platform.components import Contents, SAEConfig
from sae_platform.errors import PlatformError, choices
from sae_platform.releases import ReleasedSAE
from sae_platform_formats.files import metadata_of, settings_in, taken, tensors_in

KEPT = ("n_heads", "n_attn_layers", "bottleneck_factor", "sae_diff_type", "kval_topk", "tied_weights")


def read(root: Path, sae: ReleasedSAE) -> Contents:
    folder = root / sae.path
    settings = settings_in(folder / "conf.yaml", "sae", "llm", "data")
    missing = [key for key in (*KEPT, "scaling_factor") if key not in settings["sae"]]
    if missing:
        raise PlatformError(f"{folder / 'conf.yaml'} has no {choices(missing)} under sae.")
    path = folder / "latest_ckpt.safetensors"
    found = tensors_in(path)
    attention = {name: tensor for name, tensor in found.items() if name.startswith("attn_layers.")}
    names = {"W_dec": "D", "b_dec": "b"} | ({} if settings["sae"]["tied_weights"] else {"W_enc": "E"})
    t = taken(path, found, names) | attention
    d_sae, d_in = t["W_dec"].shape
    cfg = SAEConfig(
        architecture="temporal", d_in=d_in, d_sae=d_sae, dtype=str(settings["data"]["dtype"]).removeprefix("torch."),
        normalize_activations="constant_scalar_rescale",
        activation_normalization_factor=settings["sae"]["scaling_factor"], metadata=metadata_of(sae),
        **{key: settings["sae"][key] for key in KEPT},
    )  # fmt: skip
    return Contents(cfg, t)
