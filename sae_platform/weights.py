"""Read and write the SAE folder: cfg.json, sae_weights.safetensors and, where known, sparsity.safetensors.

The format is SAELens' own, so that its releases read what is written here; `cfg.json` holds our configuration under
`sae_platform` and theirs beside it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_platform.components import SAEConfig, SAEMetadata
from sae_platform.errors import PlatformError, choices

if TYPE_CHECKING:
    from sae_platform.sae import SAE

CONFIG, WEIGHTS, SPARSITY = "cfg.json", "sae_weights.safetensors", "sparsity.safetensors"
SAELENS_VERSION = "6.0.0"  # the oldest release that reads the nested shape
DTYPES = ("float32", "float64", "float16", "bfloat16")


def save(sae: SAE, folder: Path, sparsity: Tensor | None = None) -> tuple[Path, ...]:
    """Write an SAE and its log10 firing frequencies [d_sae] into a folder; returns the paths written."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(describe(sae.cfg)))
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


def load(folder: Path, device: str = "cpu", dtype: str | None = None) -> SAE:
    """Read an SAE folder; raises PlatformError naming the file, what was expected and what is there."""
    cfg = read_config(folder)
    cfg = cfg.model_copy(update={"device": "cpu", "dtype": _dtype(dtype or cfg.dtype)})
    try:
        tensors = load_file(folder / WEIGHTS)
    except FileNotFoundError:
        raise PlatformError(f"{folder} has no {WEIGHTS}. {_hint(folder)}") from None
    except (SafetensorError, OSError) as error:
        raise PlatformError(f"{folder / WEIGHTS} cannot be read: {error}.") from error
    _check_rescaling(folder, tensors)
    with torch.device("meta"):
        sae = cfg.module()(cfg)
    _check(folder / WEIGHTS, tensors, {name: tuple(t.shape) for name, t in to_disk(sae.state_dict()).items()})
    wanted = getattr(torch, cfg.dtype)
    state = {name: t.to(device=device, dtype=wanted) for name, t in from_disk(tensors).items()}
    sae.load_state_dict(state, assign=True)
    return sae.eval()


def read_config(folder: Path) -> SAEConfig:
    """The configuration in an SAE folder, ours or SAELens' (release 6 and later)."""
    try:
        content = json.loads((folder / CONFIG).read_text())
    except FileNotFoundError:
        raise PlatformError(f"{folder} is not an SAE folder: it has no {CONFIG}. {_hint(folder)}") from None
    except (OSError, ValueError) as error:
        raise PlatformError(f"{folder / CONFIG} cannot be read: {error}.") from error
    try:
        if isinstance(content, dict) and "sae_platform" in content:
            return SAEConfig.model_validate(content["sae_platform"])
        return _from_saelens(content)
    except (ValidationError, PlatformError, AttributeError, TypeError) as error:
        raise PlatformError(f"{folder / CONFIG} does not describe an SAE that can be built here: {error}") from error


def describe(cfg: SAEConfig) -> dict[str, Any]:
    """The content of cfg.json: the nested shape that SAELens 6 reads, the flat one of 3 to 5, and ours."""
    ours = cfg.model_dump(mode="json")
    metadata = cfg.metadata
    policy = metadata.token_policy
    shared = {
        "model_name": metadata.model_name,
        "hook_name": metadata.hook_name,
        "hook_head_index": None,
        "dataset_path": metadata.dataset_path,
        "context_size": metadata.context_size,
        "prepend_bos": policy.prepend_bos if policy else True,
        "exclude_special_tokens": policy.exclude_special_tokens if policy else False,
        "seqpos_slice": [None],
        "sae_lens_version": SAELENS_VERSION,
        "sae_lens_training_version": SAELENS_VERSION,
    }
    legacy = {
        "activation_fn_str": "topk" if cfg.architecture == "topk" else "relu",
        "activation_fn_kwargs": {"k": ours["k"]} if "k" in ours else {},
        "finetuning_scaling_factor": False,
        "hook_layer": next((int(part) for part in (metadata.hook_name or "").split(".") if part.isdigit()), 0),
        "dataset_trust_remote_code": False,
    }
    saelens = {**ours, "reshape_activations": "none", "device": "cpu"}
    if cfg.architecture == "topk":
        saelens["rescale_acts_by_decoder_norm"] = True
    theirs = {**shared, "architecture": cfg.architecture, "sae_platform_version": version("sae-platform")}
    return {**legacy, **shared, **saelens, "metadata": theirs, "sae_platform": ours}


def to_disk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A module's tensors under the names and shapes of the file: W_enc is [d_in, d_sae] there."""
    return {
        name.replace("W_enc_rows", "W_enc"): (t.T if name == "W_enc_rows" else t).detach().contiguous()
        for name, t in state.items()
    }


def from_disk(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `to_disk`."""
    return {"W_enc_rows" if n == "W_enc" else n: (t.T if n == "W_enc" else t).contiguous() for n, t in tensors.items()}


def _from_saelens(content: dict[str, Any]) -> SAEConfig:
    if "metadata" not in content:  # the same keys could mean something else there, such as another activation function
        raise PlatformError("it has no metadata, as in SAELens before 6; load and save it with SAELens 6 first.")
    chosen = SAEConfig._chosen({"architecture": content.get("architecture", "standard")}, None)
    fields = {key: value for key, value in content.items() if key in chosen.model_fields and key != "metadata"}
    fields["dtype"] = _dtype(str(fields.get("dtype", "float32")))
    return chosen(**fields, metadata=SAEMetadata.model_validate(content["metadata"]))


def _check_rescaling(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Refuse a SAELens TopK SAE that selects by unscaled pre-activations where that is another selection than ours."""
    content = json.loads((folder / CONFIG).read_text())
    if content.get("architecture") != "topk" or content.get("rescale_acts_by_decoder_norm", "sae_platform" in content):
        return
    norms = tensors["W_dec"].float().norm(dim=-1) if "W_dec" in tensors else torch.ones(1)
    if (norms - 1).abs().max() > 1e-3:
        raise PlatformError(
            f"{folder} has rescale_acts_by_decoder_norm = false and decoder rows of norms {norms.min():.3g} to "
            f"{norms.max():.3g}. TopK SAEs here select by the contribution to the output, which gives other features "
            "unless all norms are 1."
        )


def _dtype(name: str) -> str:
    name = name.removeprefix("torch.")
    if name not in DTYPES:
        raise PlatformError(f"dtype {name!r} is not known. Known: {choices(DTYPES)}.")
    return name


def _check(path: Path, tensors: dict[str, Tensor], expected: dict[str, tuple[int, ...]]) -> None:
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
