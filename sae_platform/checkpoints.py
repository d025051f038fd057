"""Checkpoints: complete or invisible, each with a usable SAE and everything that continues the run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import torch
from torch import Tensor

from sae_platform import weights
from sae_platform.errors import PlatformError

if TYPE_CHECKING:
    from sae_platform.sae import SAE

MANIFEST = "manifest.json"


def save_checkpoint(
    folder: Path,
    step: int,
    tokens: int,
    sae: SAE,
    optimizer: torch.optim.Optimizer,
    data_state: Mapping[str, Tensor],
    sparsity: Tensor,
    keep: int,
) -> Path:
    """Write `<folder>/step-<step>` in a temporary folder, rename it into place, then remove all but the `keep` newest.

    It holds sae/ (as people load it), training.safetensors (the unfolded weights), optimizer.safetensors,
    data_state.safetensors and manifest.json (sizes and sha256 of all files). PlatformError when it cannot be written;
    older checkpoints are intact then.
    """
    final = folder / f"step-{step:08d}"
    if (final / MANIFEST).exists():
        return final
    temporary = folder / f".{final.name}.{uuid4().hex}"
    try:
        temporary.mkdir(parents=True)
        weights.save(sae.inference_form(), temporary / "sae", sparsity)
        weights.write_tensors(temporary / "training.safetensors", sae.state_dict())
        weights.write_tensors(temporary / "optimizer.safetensors", optimizer_tensors(sae, optimizer))
        weights.write_tensors(temporary / "data_state.safetensors", data_state)
        _finish(temporary, {"step": step, "tokens": tokens})
        temporary.rename(final)
        _sync(folder)
    except Exception as error:  # safetensors reports a full disk as its own error
        shutil.rmtree(temporary, ignore_errors=True)
        raise PlatformError(
            f"The checkpoint {final} cannot be written: {error}. Older checkpoints are intact."
        ) from error
    for old in sorted(path.parent for path in folder.glob(f"step-*/{MANIFEST}"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def optimizer_tensors(sae: SAE, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state by parameter: `W_dec.exp_avg` and so on."""
    return {
        f"{name}.{key}": torch.as_tensor(value)
        for name, parameter in sae.named_parameters()
        for key, value in optimizer.state[parameter].items()
    }


def _finish(folder: Path, facts: dict[str, int]) -> None:
    """Write the manifest last, and have everything on disk before the folder becomes visible."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"format": 1, **facts, "files": files}, indent=1))
    with manifest.open("rb") as file:
        os.fsync(file.fileno())
    _sync(folder)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
