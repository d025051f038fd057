"""Tensors out of files that may come from anyone: nothing in them is executed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_platform.components import SAEMetadata
from sae_platform.errors import PlatformError, choices
from sae_platform.releases import ReleasedSAE

HOOKS = {
    "resid_pre": "blocks.{}.hook_resid_pre", "resid_mid": "blocks.{}.hook_resid_mid",
    "resid_post": "blocks.{}.hook_resid_post", "attn_out": "blocks.{}.hook_attn_out",
    "mlp_out": "blocks.{}.hook_mlp_out", "mlp_in": "blocks.{}.hook_mlp_in", "z": "blocks.{}.attn.hook_z",
}  # fmt: skip


def tensors_in(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors, .npz or torch file by name. PlatformError when it is cut or of another kind."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
        raise PlatformError(f"{path} cannot be read: {error}.") from error
    except pickle.UnpicklingError as error:
        raise PlatformError(f"{path} holds more than tensors, and is not opened: it could run anything.") from error
    if not isinstance(found, dict) or not all(isinstance(tensor, Tensor) for tensor in found.values()):
        raise PlatformError(f"{path} holds no tensors by name.")
    return dict(found)


def taken(path: Path, tensors: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors under our names, given theirs. PlatformError naming those that are missing."""
    missing = [theirs for theirs in names.values() if theirs not in tensors]
    if missing:
        raise PlatformError(f"{path} has no {choices(missing)}. It has {choices(tensors)}.")
    return {ours: tensors[theirs] for ours, theirs in names.items()}


def metadata_of(sae: ReleasedSAE) -> SAEMetadata:
    """What the registry knows, in the words of an SAE."""
    hook = None if sae.layer is None or sae.site not in HOOKS else HOOKS[sae.site].format(sae.layer)
    known = {"neuronpedia_id": sae.neuronpedia_id} if sae.neuronpedia_id else {}
    return SAEMetadata(model_name=sae.model, hook_name=hook, **known)
