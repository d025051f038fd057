"""Read and write the SAE folder: cfg.json, sae_weights.safetensors and, where known, sparsity.safetensors.

The format is SAELens' own, so that its releases read what is written here; `cfg.json` holds our configuration under
`sae_platform` and theirs beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_platform import cfg_json
from sae_platform.components import SAEConfig
from sae_platform.errors import PlatformError, choices

if TYPE_CHECKING:
    from sae_platform.sae import SAE

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
FILES = {CONFIG: True, WEIGHTS: True, SPARSITY: False}  # of an SAE folder, and whether it must be there


def save(sae: SAE, folder: Path, sparsity: Tensor | None = None) -> tuple[Path, ...]:
    """Write an SAE and its log10 firing frequencies [d_sae] into a folder; returns the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(cfg_json.describe(sae.cfg)))
    write_tensors(folder / WEIGHTS, to_disk(sae.state_dict()))
    if sparsity is None:
        return folder / WEIGHTS, folder / CONFIG
    return folder / WEIGHTS, folder / CONFIG, save_sparsity(folder, sparsity)


def save_sparsity(folder: Path, sparsity: Tensor) -> Path:
    """Write log10 firing frequencies [d_sae] beside the weights."""
    write_tensors(folder / SPARSITY, {"sparsity": sparsity.float()})
    return folder / SPARSITY


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that others may read too (safetensors itself makes it private)."""
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
    path.chmod(0o644)


def load(
    folder: Path, device: str = "cpu", dtype: str | None = None, corrections: Mapping[str, Any] | None = None
) -> SAE:
    """Read an SAE folder; raises PlatformError naming the file, what was expected and what is there.

    `corrections` stand in for what cfg.json says or lacks.
    """
    content = cfg_json.corrected(_content(folder), corrections or {})
    cfg = _understood(folder, content)
    cfg = cfg.model_copy(update={"dtype": dtype or cfg.dtype})
    return assembled(cfg, _tensors(folder, content), device, folder / WEIGHTS)


def assembled(cfg: SAEConfig, tensors: Mapping[str, Tensor], device: str, path: Path) -> SAE:
    """An SAE of these tensors, under the names and shapes of the file, in the dtype of `cfg`.

    PlatformError, with the path they are from, for missing, extra, misshapen and non-finite tensors, and for a device
    that cannot hold them.
    """
    cfg = cfg.model_copy(update={"device": "cpu", "dtype": cfg_json.dtype_name(cfg.dtype)})
    with torch.device("meta"):
        sae = cfg.module()(cfg)
    _check(path, tensors, {name: tuple(t.shape) for name, t in to_disk(sae.state_dict()).items()})
    wanted = getattr(torch, cfg.dtype)
    try:
        state = {name: t.to(device=device, dtype=wanted) for name, t in from_disk(tensors).items()}
    except (AssertionError, RuntimeError) as error:  # how torch says that there is no such device, or no room on it
        reason = str(error).partition("\n")[0]
        raise PlatformError(f"{path} cannot be put on the device {device!r}: {reason}.") from error
    sae.load_state_dict(state, assign=True)
    return sae.eval()


def read_config(folder: Path) -> SAEConfig:
    """The configuration in an SAE folder, ours or SAELens'."""
    return _understood(folder, _content(folder))


def read_sparsity(folder: Path) -> Tensor | None:
    """The log10 firing frequencies [d_sae] beside the weights, where there are any."""
    try:
        return load_file(folder / SPARSITY)["sparsity"]
    except FileNotFoundError:
        return None
    except (SafetensorError, OSError, KeyError) as error:
        raise PlatformError(f"{folder / SPARSITY} cannot be read: {error}.") from error


def to_disk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A module's tensors under the names and shapes of the file: W_enc is [d_in, d_sae] there."""
    return {
        name.replace("W_enc_rows", "W_enc"): (t.T if name == "W_enc_rows" else t).detach().contiguous()
        for name, t in state.items()
    }


def from_disk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_disk`."""
    return {"W_enc_rows" if n == "W_enc" else n: (t.T if n == "W_enc" else t).contiguous() for n, t in tensors.items()}


def _content(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        raise PlatformError(f"{folder} is not an SAE folder: it has no {CONFIG}. {_hint(folder)}") from None
    except (OSError, ValueError) as error:
        raise PlatformError(f"{folder / CONFIG} cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise PlatformError(f"{folder / CONFIG} does not describe an SAE that can be built here: it is no object.")
    return content


def _understood(folder: Path, content: dict[str, Any]) -> SAEConfig:
    try:
        return cfg_json.understood(content)
    except (ValidationError, PlatformError, AttributeError, TypeError, ValueError) as error:
        raise PlatformError(f"{folder / CONFIG} does not describe an SAE that can be built here: {error}") from error


def _tensors(folder: Path, content: dict[str, Any]) -> dict[str, Tensor]:
    try:
        return cfg_json.adjusted(content, load_file(folder / WEIGHTS))
    except FileNotFoundError:
        raise PlatformError(f"{folder} has no {WEIGHTS}. {_hint(folder)}") from None
    except (SafetensorError, OSError) as error:
        raise PlatformError(f"{folder / WEIGHTS} cannot be read: {error}.") from error
    except PlatformError as error:
        raise PlatformError(f"{folder / WEIGHTS} cannot be used: {error}") from error


def _check(path: Path, tensors: Mapping[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
    if expected.keys() != tensors.keys():
        missing, extra = choices(expected.keys() - tensors.keys()), choices(tensors.keys() - expected.keys())
        raise PlatformError(
            f"{path} does not hold the tensors of this architecture. Missing: {missing}. Not expected: {extra}."
        )
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            raise PlatformError(f"{path}: {name} has shape {tuple(tensor.shape)}, expected {expected[name]}.")
        if not tensor.isfinite().all():
            raise PlatformError(f"{path}: {name} holds NaN or infinity.")


def _hint(folder: Path) -> str:
    if not folder.exists():
        return "The folder does not exist."
    found = sorted(path.parent for path in folder.rglob(CONFIG))[:3]
    return f"SAE folders inside it: {', '.join(map(str, found))}." if found else "There is no SAE folder inside it."


def find_sae_folder(path: Path) -> Path:
    """The SAE folder that a path means: itself, or the finished or newest SAE of a run or checkpoint.

    PlatformError names what is there instead.
    """
    candidates = [path, path / "sae", *sorted(path.glob("checkpoints/step-*/sae"), reverse=True)]
    for folder in candidates:
        if (folder / CONFIG).is_file():
            return folder
    raise PlatformError(f"{path} is no run, checkpoint or SAE folder. {_hint(path)}")
