"""dictionary_learning's folders, of every trainer whose dictionary is one of our architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_platform.components import Contents, SAEConfig
from sae_platform.errors import PlatformError, choices
from sae_platform.releases import ReleasedSAE
from sae_platform_formats.files import metadata_of, taken, tensors_in

LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
ENCODER_BIAS = {**LINEAR, "b_enc": "encoder.bias"}
CLASSES: dict[str, tuple[str, dict[str, str]]] = {  # our architecture, and their names of its tensors
    "AutoEncoder": ("standard", {**ENCODER_BIAS, "b_dec": "bias"}),
    "AutoEncoderNew": ("standard", {**ENCODER_BIAS, "b_dec": "decoder.bias"}),
    "GatedAutoEncoder": (
        "gated",
        {**LINEAR, "b_dec": "decoder_bias", "b_gate": "gate_bias", "b_mag": "mag_bias", "r_mag": "r_mag"},
    ),
    "AutoEncoderTopK": ("topk", {**ENCODER_BIAS, "b_dec": "b_dec"}),
    "BatchTopKSAE": ("jumprelu", {**ENCODER_BIAS, "b_dec": "b_dec", "threshold": "threshold"}),
    "MatryoshkaBatchTopKSAE": (
        "jumprelu", {"W_enc": "W_enc", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"},
    ),
    "JumpReluAutoEncoder": (
        "jumprelu", {"W_enc": "W_enc", "W_dec": "W_dec", "b_enc": "b_enc", "b_dec": "b_dec", "threshold": "threshold"},
    ),
}  # fmt: skip
ENCODE_WITHOUT_B_DEC = ("AutoEncoderNew", "JumpReluAutoEncoder")


def read(folder: Path, sae: ReleasedSAE) -> Contents:
    trainer = _trainer(folder / "config.json")
    name = trainer.get("dict_class")
    if name not in CLASSES:
        raise PlatformError(f"{folder} holds a {name!r}, which cannot be read here. Known: {choices(CLASSES)}.")
    architecture, names = CLASSES[name]
    path = folder / "ae.pt"
    t = {ours: tensor.float() for ours, tensor in taken(path, tensors_in(path), names).items()}
    if names["W_enc"] == "encoder.weight":
        t["W_enc"], t["W_dec"] = t["W_enc"].T, t["W_dec"].T
    if "threshold" in t:
        t["threshold"] = t["threshold"].expand(t["W_enc"].shape[1]).clamp_min(0)
    return Contents(_config(architecture, name, trainer, t, sae), t)


def _config(architecture: str, name: str, trainer: dict[str, Any], t: dict[str, Tensor], sae: ReleasedSAE) -> SAEConfig:
    settings: dict[str, Any] = {"apply_b_dec_to_input": name not in ENCODE_WITHOUT_B_DEC}
    if architecture == "topk":
        settings |= {"k": int(trainer["k"]), "rescale_acts_by_decoder_norm": False}
    d_in, d_sae = t["W_enc"].shape
    return SAEConfig(architecture=architecture, d_in=d_in, d_sae=d_sae, metadata=metadata_of(sae), **settings)


def _trainer(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text())["trainer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PlatformError(f"{path} is not a configuration of dictionary_learning: {error!r}.") from error
