"""`sae-platform convert`: an SAE in the format of another project."""

from __future__ import annotations

from pathlib import Path

import click

from sae_platform.errors import PlatformError

ROWS, SEED = 256, 0
TOLERANCE = 1e-5  # of the largest output


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, help="saelens, dictionary_learning, sparsify or a plugin's format.")
def command(source: Path, destination: Path, kind: str) -> None:
    """Write the SAE at SOURCE into the folder DESTINATION, in another format.

    SOURCE is a run, an SAE folder or weights in any installed format. What was written is read again and compared with
    the source on random inputs.
    """
    if destination.exists() and (not destination.is_dir() or any(destination.iterdir())):
        raise PlatformError(f"{destination} is there already; name a folder that does not exist, or an empty one.")
    import torch

    from sae_platform.components import WeightFormat
    from sae_platform.formats import SAELENS
    from sae_platform.sae import SAE
    from sae_platform.weights import find_sae_folder, read_sparsity

    try:
        found = find_sae_folder(source)
    except PlatformError:  # weights in the format of another project
        found = source
    form = None if kind == SAELENS else WeightFormat(kind=kind)
    sae = SAE.load_from_disk(found)
    if form is None:
        sae.inference_form().save_model(destination, sparsity=read_sparsity(found) if found.is_dir() else None)
    else:
        form.write(sae, destination)
    x = torch.randn(ROWS, sae.d_in, generator=torch.Generator().manual_seed(SEED))
    with torch.no_grad():
        expected, again = sae(x), SAE.load_from_disk(destination)(x)
    difference = ((again - expected).abs().max() / expected.abs().max()).item()
    click.echo(f"Wrote {destination} ({sae.cfg.architecture}, {sae.d_in} x {sae.d_sae}) as {kind}.")
    if not difference < TOLERANCE:
        raise PlatformError(f"What was written gives other outputs, by {difference:.1e} of the largest. Do not use it.")
    click.echo(f"Read again, its outputs differ by {difference:.1e} of the largest.")
