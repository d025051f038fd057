"""An SAE in the format of another project, written and read again."""

from __future__ import annotations

from pathlib import Path

import torch

from sae_platform.components import WeightFormat
from sae_platform.errors import PlatformError
from sae_platform.formats import SAELENS
from sae_platform.sae import SAE
from sae_platform.weights import find_sae_folder, read_sparsity

ROWS, SEED = 256, 0
TOLERANCE = 1e-5  # of the largest output


def convert(source: Path, destination: Path, kind: str) -> tuple[SAE, float]:
    """Write the SAE at `source` (a run, an SAE folder, weights in any installed format) into a folder.

    Returns it, and by how much of the largest output what was written differs on random inputs. PlatformError where the
    format cannot keep it, where something is at `destination`, and where the outputs differ.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise PlatformError(f"{destination} is there already; name a folder that does not exist, or an empty one.")
    try:
        found = find_sae_folder(source)
    except PlatformError:  # weights in the format of another project
        found = source
    form = None if kind == SAELENS else WeightFormat(kind=kind)
    sae = SAE.load_from_disk(found)
    if form is None:
        sae.inference_form().save_model(destination, read_sparsity(found) if found.is_dir() else None)
    else:
        form.write(sae, destination)
    x = torch.randn(ROWS, sae.d_in, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        expected, again = sae(x), SAE.load_from_disk(destination)(x)
    difference = ((again - expected).abs().max() / expected.abs().max().clamp_min(1e-30)).item()
    if not difference < TOLERANCE:
        raise PlatformError(f"{destination} gives other outputs, by {difference:.1e} of the largest. Do not use it.")
    return sae, difference
