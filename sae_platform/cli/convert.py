"""`sae-platform convert`: an SAE in the format of another project."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("destination", type=click.Path(path_type=Path))
@click.option("--to", "kind", required=True, help="saelens, dictionary_learning, sparsify or a plugin's format.")
def command(source: Path, destination: Path, kind: str) -> None:
    """Write the SAE at SOURCE into the folder DESTINATION, in another format.

    SOURCE is a run, an SAE folder or weights in any installed format. What was written is read again and compared with
    the source on random inputs.
    """
    from sae_platform.converting import convert

    sae, difference = convert(source, destination, kind)
    click.echo(f"{destination}: {sae.cfg.architecture}, {sae.d_in} x {sae.d_sae}, as {kind}.")
    click.echo(f"Read again, its outputs differ by {difference:.1e} of the largest.")
