"""dictionary_learning's folders, of every trainer whose dictionary is one of our architectures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_platform.components import Contents, SAEConfig
from sae_platform.errors import PlatformError, choices
from sae_platform.releases import ReleasedSAE
from sae_platform.sae import SAE
from sae_platform_formats.files import centred, layer_of, metadata_of, plain, settings_in, taken, tensors_in

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
WRITTEN = {
    "standard": "AutoEncoder",
    "gated": "GatedAutoEncoder",
    "topk": "AutoEncoderTopK",
    "jumprelu": "JumpReluAutoEncoder",
}
ENCODE_WITHOUT_B_DEC = ("AutoEncoderNew", "JumpReluAutoEncoder")


def read(root: Path, sae: ReleasedSAE) -> Contents:
    folder = root / sae.path
    trainer = settings_in(folder / "config.json", "trainer")["trainer"]
    name = trainer.get("dict_class") if isinstance(trainer, dict) else None
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
        if not isinstance(trainer.get("k"), int):
            raise PlatformError(f"{sae.path}/config.json does not say its k.")
        settings |= {"k": trainer["k"], "rescale_acts_by_decoder_norm": False}
    d_in, d_sae = t["W_enc"].shape
    return SAEConfig(architecture=architecture, d_in=d_in, d_sae=d_sae, metadata=metadata_of(sae), **settings)


def write(sae: SAE, folder: Path) -> None:
    """ae.pt and config.json, as `load_dictionary` reads them."""
    cfg, t = plain(sae, "dictionary_learning", WRITTEN)
    name = WRITTEN[cfg.architecture]
    if name == "AutoEncoder" and not cfg.apply_b_dec_to_input:
        name = "AutoEncoderNew"
    t = centred(t, cfg, subtracts=name not in ENCODE_WITHOUT_B_DEC)
    names = CLASSES[name][1]
    if names["W_enc"] == "encoder.weight":
        t = {**t, "W_enc": t["W_enc"].T, "W_dec": t["W_dec"].T}
    state = {theirs: t[ours].cpu().contiguous() for ours, theirs in names.items()}
    trainer = {"dict_class": name, "activation_dim": cfg.d_in, "dict_size": cfg.d_sae, "layer": layer_of(cfg),
               "lm_name": cfg.metadata.model_name, "submodule_name": cfg.metadata.hook_name}  # fmt: skip
    if k := getattr(cfg, "k", None):
        trainer["k"] = k
        state |= {"k": torch.tensor(k), "threshold": torch.tensor(-1.0)}
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "ae.pt")
    settings = {"trainer": trainer, "buffer": {"ctx_len": cfg.metadata.context_size}}
    (folder / "config.json").write_text(json.dumps(settings, indent=1))
