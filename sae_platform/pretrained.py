"""Released SAEs, from the registry or from any repository on the hub, and those of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor

from sae_platform import formats, hub, registry, weights
from sae_platform.components import SAEConfig, WeightFormat
from sae_platform.errors import PlatformError
from sae_platform.formats import SAELENS
from sae_platform.releases import ReleasedSAE, leaves_repository

if TYPE_CHECKING:
    from sae_platform.sae import SAE


class Origin(NamedTuple):
    """What came with the weights of a released SAE."""

    cfg_dict: dict[str, Any]  # its configuration and metadata in one flat dictionary
    sparsity: Tensor | None  # log10 firing frequencies [d_sae]


class Located(NamedTuple):
    """An SAE in a repository, and what is known of it besides its files."""

    sae: ReleasedSAE
    kinds: list[str]  # formats that it may be in
    corrections: Mapping[str, Any]  # what its configuration lacks or says wrongly
    sha256: Mapping[str, str]  # of files


def load(
    release: str,
    sae_id: str,
    device: str = "cpu",
    dtype: str | None = None,
    revision: str | None = None,
    force_download: bool = False,
) -> SAE:
    """See `SAE.from_pretrained`."""
    found, kinds, corrections, sha256 = (
        _in_repository(release, sae_id, revision) if "/" in release else _known(release, sae_id)
    )
    if kinds == [SAELENS]:
        files = {f"{found.path}/{name}": required for name, required in weights.FILES.items()}
    else:
        files = {name: needed for kind in kinds for name, needed in WeightFormat(kind=kind).files(found.path).items()}
    pinned = {} if revision else sha256  # they are those of the pinned revision
    root = hub.fetch(found.repo_id, files, revision or found.revision, force_download, sha256=pinned)
    if kinds == [SAELENS]:
        folder = root / found.path
        sae, sparsity = weights.load(folder, device, dtype, corrections), weights.read_sparsity(folder)
    else:
        sae, sparsity = formats.read(root, found, kinds, device, dtype), None
        sae.describe(**corrections)
    sae.origin = Origin(flat(sae.cfg), sparsity)
    return sae


def load_local(path: Path, device: str = "cpu", dtype: str | None = None) -> SAE:
    """See `SAE.load_from_disk`."""
    path = path.absolute()
    kinds = formats.fitting(path.name, formats.OnDisk(path.parent))
    if not kinds or kinds == [SAELENS]:
        return weights.load(path, device, dtype)
    return formats.read(path.parent, _unregistered(path.name, str(path)), kinds, device, dtype)


def flat(cfg: SAEConfig) -> dict[str, Any]:
    """A configuration and its metadata as one dictionary, as SAELens before 6 had it."""
    return {**cfg.metadata.model_dump(exclude_none=True), **cfg.model_dump(exclude={"metadata"})}


def _known(release: str, sae_id: str) -> Located:
    """What the registry knows."""
    sae, described = registry.lookup(release, sae_id), registry.find_release(release)
    if sae.format != SAELENS:
        formats.named(sae)
    return Located(sae, [sae.format], described.config, described.sha256)


def _in_repository(repo_id: str, path: str, revision: str | None) -> Located:
    """What lies at a path of a repository: of what is in the cache, or else of what the hub lists."""
    if leaves_repository(path):
        raise PlatformError(f"{path!r} is no folder inside a repository.")
    kinds = formats.fitting(path, hub.cached(repo_id, revision)) or formats.fitting(
        path, hub.listing(repo_id, revision)
    )
    return Located(_unregistered(path, repo_id), kinds or [SAELENS], {}, {})


def _unregistered(path: str, repo_id: str) -> ReleasedSAE:
    return ReleasedSAE(repo_id, path, "", repo_id, path, "")
