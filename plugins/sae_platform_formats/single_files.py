"""Releases whose SAEs are one torch file each."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_platform.components import Contents, SAEConfig
from sae_platform.errors import PlatformError
from sae_platform.releases import ReleasedSAE
from sae_platform_formats.files import dtype_of, metadata_of, taken, tensors_in

NATIVE = {name: name for name in ("W_enc", "W_dec", "b_enc", "b_dec")}


def read_goodfire(root: Path, sae: ReleasedSAE) -> Contents:
    return _linear_layers(root / sae.path, sae, "encoder_linear", "decoder_linear")


def read_deepseek_r1(root: Path, sae: ReleasedSAE) -> Contents:
    return _linear_layers(root / sae.path, sae, "encoder", "decoder")


def _linear_layers(path: Path, sae: ReleasedSAE, encoder: str, decoder: str) -> Contents:
    """Two torch linear layers of these names, relu between them."""
    names = {"W_enc": f"{encoder}.weight", "b_enc": f"{encoder}.bias", "W_dec": f"{decoder}.weight",
             "b_dec": f"{decoder}.bias"}  # fmt: skip
    t = taken(path, tensors_in(path), names)
    return _transposed(t, sae, "standard", apply_b_dec_to_input=False)


def read_qwen_scope(root: Path, sae: ReleasedSAE) -> Contents:
    path = root / sae.path
    k = re.search(r"L0_(\d+)$", sae.repo_id)
    if k is None:
        raise PlatformError(f"{sae.repo_id} does not end with its k, as the repositories of Qwen Scope do (L0_50).")
    t = taken(path, tensors_in(path), NATIVE)
    settings = {"k": int(k[1]), "rescale_acts_by_decoder_norm": False, "apply_b_dec_to_input": False}
    return _transposed(t, sae, "topk", **settings)


def read_hook_z(root: Path, sae: ReleasedSAE) -> Contents:
    path = root / sae.path
    t = taken(path, tensors_in(path), NATIVE)
    return Contents(_config(t, sae, "standard"), t)


def _transposed(t: dict[str, Tensor], sae: ReleasedSAE, architecture: str, **settings: Any) -> Contents:
    """Weights as torch's linear layers hold them."""
    t["W_enc"], t["W_dec"] = t["W_enc"].T, t["W_dec"].T
    return Contents(_config(t, sae, architecture, **settings), t)


def _config(t: dict[str, Tensor], sae: ReleasedSAE, architecture: str, **settings: Any) -> SAEConfig:
    d_in, d_sae = t["W_enc"].shape
    return SAEConfig(
        architecture=architecture, d_in=d_in, d_sae=d_sae, dtype=dtype_of(t["W_enc"]), metadata=metadata_of(sae),
        **settings,
    )  # fmt: skip
