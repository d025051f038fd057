"""Released SAEs, from the registry or from any repository on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from sae_platform import hub, registry, weights
from sae_platform.components import SAEConfig, WeightFormat
from sae_platform.errors import PlatformError
from sae_platform.releases import ReleasedSAE

if TYPE_CHECKING:
    from sae_platform.sae import SAE

SAELENS = "saelens"  # the format of our own SAE folders


class Origin(NamedTuple):
    """What came with the weights of a released SAE."""

    cfg_dict: dict[str, Any]  # its configuration and metadata in one flat dictionary
    sparsity: Tensor | None  # log10 firing frequencies [d_sae]


def load(
    release: str,
    sae_id: str,
    device: str = "cpu",
    dtype: str | None = None,
    revision: str | None = None,
    force_download: bool = False,
) -> SAE:
    """See `SAE.from_pretrained`."""
    found, corrections = _located(release, sae_id)
    revision = revision or found.revision
    if found.format == SAELENS:
        files = {f"{found.path}/{name}": required for name, required in weights.FILES.items()}
        folder = hub.fetch(found.repo_id, files, revision, force_download) / found.path
        sae, sparsity = weights.load(folder, device, dtype, corrections), weights.read_sparsity(folder)
    else:
        form = _format(found)
        root = hub.fetch(found.repo_id, form.files(found.path), revision, force_download)
        cfg, tensors = form.read(root, found)
        cfg = cfg.model_copy(update={"dtype": dtype or cfg.dtype})
        sae, sparsity = weights.assembled(cfg, tensors, device, root / found.path), None
    sae.origin = Origin(flat(sae.cfg), sparsity)
    return sae


def flat(cfg: SAEConfig) -> dict[str, Any]:
    """A configuration and its metadata as one dictionary, as SAELens before 6 had it."""
    return {**cfg.metadata.model_dump(exclude_none=True), **cfg.model_dump(exclude={"metadata"})}


def _located(release: str, sae_id: str) -> tuple[ReleasedSAE, Mapping[str, Any]]:
    """What is asked for, and what the registry corrects in its configuration."""
    if "/" in release:
        return ReleasedSAE(release, sae_id, "", release, sae_id, SAELENS), {}
    return registry.lookup(release, sae_id), registry.find_release(release).config


def _format(sae: ReleasedSAE) -> WeightFormat:
    try:
        return WeightFormat(kind=sae.format)
    except PlatformError as error:
        raise PlatformError(f"{sae.release} cannot be read: {error}") from error
