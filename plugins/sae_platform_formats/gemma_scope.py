"""Gemma Scope, both generations: JumpReLU without a decoder bias in the encoder's input; SAEs and transcoders."""

from __future__ import annotations

import warnings
from pathlib import Path

from torch import Tensor

from sae_platform.components import Contents, SAEConfig
from sae_platform.releases import ReleasedSAE
from sae_platform_formats.files import metadata_of, taken, tensors_in

NAMES = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec", "threshold")}


def read(root: Path, sae: ReleasedSAE) -> Contents:
    if "transcoder" in f"{sae.repo_id}/{sae.path}":
        return read_transcoder(root, sae)
    return _sae(_tensors(root / sae.path / "params.npz"), sae)


def read_transcoder(root: Path, sae: ReleasedSAE) -> Contents:
    return _transcoder(_tensors(root / sae.path / "params.npz"), sae, "blocks.{}.ln2.hook_normalized")


def read_second(root: Path, sae: ReleasedSAE) -> Contents:
    """The second generation says in its paths what is a transcoder."""
    crosses_layers = "clt" in sae.path
    path = root / (f"{sae.path}.safetensors" if crosses_layers else f"{sae.path}/params.safetensors")
    t = _tensors(path)
    if not crosses_layers and "W_skip" not in t and "transcoder" not in f"{sae.site} {sae.repo_id} {sae.path}":
        return _sae(t, sae)
    if crosses_layers:  # W_dec [d_sae, layers, d_out]
        warn_of_sum(sae)
        t["W_dec"] = t["W_dec"].sum(1)
    return _transcoder(t, sae, "blocks.{}.mlp.hook_in")  # pre_feedforward_layernorm.output, as its config.json has it


def warn_of_sum(sae: ReleasedSAE) -> None:
    """Say that a transcoder writes to several layers, of which an SAE here has one."""
    warnings.warn(
        f"{sae.release} {sae.sae_id} writes to several layers; here its decoders are added up. Its features are exact, "
        "its output is the sum over layers.",
        stacklevel=2,
    )


def _tensors(path: Path) -> dict[str, Tensor]:
    found = {name.replace("w_", "W_"): tensor.float() for name, tensor in tensors_in(path).items()}
    skip = {"W_skip": found["affine_skip_connection"].T} if "affine_skip_connection" in found else {}
    return taken(path, found, NAMES) | skip


def _sae(t: dict[str, Tensor], sae: ReleasedSAE) -> Contents:
    d_in, d_sae = t["W_enc"].shape
    if sae.site == "embedding":  # trained on embeddings times sqrt(d_in), which transformers' hook does not have
        t["W_enc"], t["W_dec"] = t["W_enc"] / d_in**0.5, t["W_dec"] * d_in**0.5
    t["threshold"] = t["threshold"].clamp_min(0)  # below zero, relu decides
    cfg = SAEConfig(
        architecture="jumprelu", d_in=d_in, d_sae=d_sae, apply_b_dec_to_input=False, metadata=metadata_of(sae)
    )  # fmt: skip
    return Contents(cfg, t)


def _transcoder(t: dict[str, Tensor], sae: ReleasedSAE, reads: str) -> Contents:
    (d_in, d_sae), d_out = t["W_enc"].shape, t["W_dec"].shape[-1]
    architecture = "jumprelu_skip_transcoder" if "W_skip" in t else "jumprelu_transcoder"
    metadata = metadata_of(sae, reads, "blocks.{}.hook_mlp_out")
    cfg = SAEConfig(architecture=architecture, d_in=d_in, d_out=d_out, d_sae=d_sae, metadata=metadata)
    return Contents(cfg, t)
