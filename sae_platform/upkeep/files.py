"""Which files of a repository an SAE is read from, and how files here are written."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from sae_platform.components import WeightFormat
from sae_platform.errors import PlatformError
from sae_platform.releases import ReleasedSAE
from sae_platform.runs import write_atomic


class SAEFolder(WeightFormat):
    """The kernel's own format, by its files alone."""

    kind: Literal["saelens"] = "saelens"

    def files(self, path: str) -> Mapping[str, bool]:
        names = {"cfg.json": True, "sae_weights.safetensors": True, "sparsity.safetensors": False}
        return {str(PurePosixPath(path, name)): required for name, required in names.items()}


def format_of(kind: str) -> WeightFormat:
    """The format of that name. PlatformError when no installed plugin reads it."""
    return SAEFolder() if kind == "saelens" else WeightFormat(kind=kind)


def needed(form: WeightFormat, path: str) -> list[str]:
    """The files without which an SAE at that path cannot be read."""
    return [place for place, required in form.files(path).items() if required]


def lacking(sae: ReleasedSAE, present: Collection[str]) -> list[str]:
    """What an SAE needs and a repository does not have: files, or its path where no plugin says which they are."""
    try:
        form = format_of(sae.format)
    except PlatformError:
        inside = f"{sae.path}/"
        there = sae.path in present or any(place.startswith(inside) for place in present)
        return [] if there else [sae.path]
    return [place for place in needed(form, sae.path) if place not in present]


def save(file: Path, text: str) -> None:
    """Write a file whole or not at all, in a folder that is made if need be. PlatformError when that cannot be."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PlatformError(f"Cannot make the folder {file.parent}: {error.strerror}.") from error
    write_atomic(file, text)
