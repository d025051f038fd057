"""Weights in the formats of the installed plugins: by the name of the format, or found out from the files."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sae_platform import weights
from sae_platform.components import WeightFormat
from sae_platform.errors import PlatformError
from sae_platform.plugins import installed_plugins
from sae_platform.releases import ReleasedSAE

if TYPE_CHECKING:
    from sae_platform.sae import SAE

SAELENS = "saelens"  # the format of our own SAE folders


@dataclass(frozen=True)
class OnDisk(Container[str]):
    """The files under a folder of this machine, by their paths from there."""

    root: Path

    def __contains__(self, name: object) -> bool:
        return (self.root / str(name)).is_file()


def named(sae: ReleasedSAE) -> WeightFormat:
    """The format that a release says it is in. PlatformError when no plugin reads it."""
    try:
        return WeightFormat(kind=sae.format)
    except PlatformError as error:
        raise PlatformError(f"{sae.release} cannot be read: {error}") from error


def fitting(path: str, present: Container[str]) -> list[str]:
    """The formats whose files are present for an SAE at this path, those of most files first."""
    if all(f"{path}/{name}" in present for name, required in weights.FILES.items() if required):
        return [SAELENS]
    formats = [WeightFormat(kind=kind) for kind in installed_plugins().kinds(WeightFormat)]
    found = [form for form in formats if form.fits(path, present)]
    return [form.kind for form in sorted(found, key=lambda form: -len(form.files(path)))]


def read(root: Path, sae: ReleasedSAE, kinds: Sequence[str], device: str, dtype: str | None) -> SAE:
    """The SAE whose files lie under `root` as in its repository, in the first of these formats that fits them.

    PlatformError says what is wrong in each.
    """
    problems = []
    for kind in kinds:
        try:
            cfg, tensors = WeightFormat(kind=kind).read(root, sae)
            cfg = cfg.model_copy(update={"dtype": dtype or cfg.dtype})
            return weights.assembled(cfg, tensors, device, root / sae.path)
        except PlatformError as error:
            problems.append(f"as {kind}: {error}")
    if len(kinds) == 1:
        raise PlatformError(problems[0].partition(": ")[2])
    raise PlatformError("\n".join([f"{root / sae.path} cannot be read in any format that is installed.", *problems]))
