"""Released SAEs, from the registry or from any repository on the hub."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from sae_platform import hub, registry, weights
from sae_platform.components import SAEConfig
from sae_platform.errors import PlatformError, choices

if TYPE_CHECKING:
    from sae_platform.sae import SAE

FORMATS = ("saelens",)


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
    repo_id, path, pinned, config = _located(release, sae_id)
    folder = hub.fetch(repo_id, path, weights.FILES, revision or pinned, force_download)
    sae = weights.load(folder, device, dtype, config)
    sae.origin = Origin(flat(sae.cfg), weights.read_sparsity(folder))
    return sae


def flat(cfg: SAEConfig) -> dict[str, Any]:
    """A configuration and its metadata as one dictionary, as SAELens before 6 had it."""
    return {**cfg.metadata.model_dump(exclude_none=True), **cfg.model_dump(exclude={"metadata"})}


def _located(release: str, sae_id: str) -> tuple[str, str, str | None, Mapping[str, Any]]:
    """Repository, path, pinned revision, and what the registry corrects."""
    if "/" in release:
        return release, sae_id, None, {}
    sae = registry.lookup(release, sae_id)
    if sae.format not in FORMATS:
        raise PlatformError(
            f"{release} is stored in the format {sae.format!r}, which cannot be read here. Formats: {choices(FORMATS)}."
        )
    return sae.repo_id, sae.path, sae.revision, registry.find_release(release).config
