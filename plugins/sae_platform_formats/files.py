"""Tensors out of files that may come from anyone: nothing in them is executed."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_platform.components import SAEConfig, SAEMetadata
from sae_platform.errors import PlatformError, choices
from sae_platform.releases import ReleasedSAE
from sae_platform.sae import SAE
from sae_platform.weights import to_disk

HOOKS = {
    "resid_pre": "blocks.{}.hook_resid_pre", "resid_mid": "blocks.{}.hook_resid_mid",
    "resid_post": "blocks.{}.hook_resid_post", "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out", "mlp_in": "blocks.{}.hook_mlp_in", "z": "blocks.{}.attn.hook_z",
}  # fmt: skip


def tensors_in(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .npz or torch file by name. PlatformError when it is cut or of another kind."""
    found = content_of(path)
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise PlatformError(f"{path} holds no tensors by name.")
    return dict(found)


def content_of(path: Path) -> Any:
    """What a .safetensors, .npz or torch file holds, opened without running anything. PlatformError when it is cut."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        return torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, ValueError, EOFError, RuntimeError, KeyError, zipfile.BadZipFile) as error:
        raise PlatformError(f"{path} cannot be read: {error}.") from error
    except pickle.UnpicklingError as error:
        raise PlatformError(f"{path} holds more than tensors, and is not opened: it could run anything.") from error


def settings_in(path: Path, *needed: str) -> dict[str, Any]:
    """The table in a .json or .yaml file. PlatformError when it is none, or lacks one of the keys."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise PlatformError(f"{path} cannot be read: {error}.") from error
    missing = [key for key in needed if not isinstance(found, dict) or key not in found]
    if missing or not isinstance(found, dict):
        raise PlatformError(f"{path} is not the configuration that this format has: {choices(missing)} missing.")
    return found


def taken(path: Path, tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors under our names, given theirs. PlatformError naming those that are missing."""
    missing = [theirs for theirs in names.values() if theirs not in tensors]
    if missing:
        raise PlatformError(f"{path} has no {choices(missing)}. It has {choices(tensors)}.")
    return {ours: tensors[theirs] for ours, theirs in names.items()}


def metadata_of(sae: ReleasedSAE, reads: str | None = None, writes: str | None = None, **known: Any) -> SAEMetadata:
    """What the registry knows, in the words of an SAE; hooks may be given, with {} for the layer."""
    reads = reads or HOOKS.get(sae.site or "")
    if reads and sae.layer is not None:
        known = {"hook_name": reads.format(sae.layer), **known}
        known |= {"hook_name_out": writes.format(sae.layer)} if writes else {}
    known |= {"neuronpedia_id": sae.neuronpedia_id} if sae.neuronpedia_id else {}
    return SAEMetadata(**{"model_name": sae.model or None, **known})


def dtype_of(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def plain(sae: SAE, project: str, known: Collection[str]) -> tuple[SAEConfig, dict[str, Tensor]]:
    """An SAE in the form people use, as configuration and tensors of its file.

    PlatformError when another project does not know its architecture, or has no place for its normalisation.
    """
    folded = sae.inference_form()
    cfg = folded.cfg
    if cfg.architecture not in known:
        raise PlatformError(f"{project} knows no {cfg.architecture} SAE. It knows {choices(known)}.")
    if cfg.normalize_activations != "none":
        raise PlatformError(f"{project} has no place for an input normalisation, and this SAE has "
                            f"normalize_activations = {cfg.normalize_activations!r}.")  # fmt: skip
    return cfg, to_disk(folded.state_dict())


def centred(t: dict[str, Tensor], cfg: SAEConfig, subtracts: bool) -> dict[str, Tensor]:
    """The same function by tensors for an encoder that subtracts b_dec from its input, or for one that does not."""
    if cfg.apply_b_dec_to_input == subtracts:
        return t
    shift = t["b_dec"] @ t["W_enc"] * (1 if subtracts else -1)
    if "r_mag" in t:
        return {**t, "b_gate": t["b_gate"] + shift, "b_mag": t["b_mag"] + shift * t["r_mag"].exp()}
    return {**t, "b_enc": t["b_enc"] + shift}


def layer_of(cfg: SAEConfig) -> int | None:
    """The layer in the name of its hook."""
    return next((int(part) for part in (cfg.metadata.hook_name or "").split(".") if part.isdigit()), None)
