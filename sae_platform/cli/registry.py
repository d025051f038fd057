"""`sae-platform registry`: released SAEs, by name or by what they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from sae_platform import registry
from sae_platform.cli import registry_upkeep
from sae_platform.cli.options import overlays_option
from sae_platform.cli.table import aligned
from sae_platform.errors import PlatformError
from sae_platform.releases import SITES, ReleasedSAE, local_folder

DUMPED = ("release", "sae_id", "model", "repo_id", "path", "format", "neuronpedia_id", "l0")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
limit_option = click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(min=0), help="How many to print; 0: all."
)


@click.group(name="registry")
def command() -> None:
    """Find released SAEs, and keep the registry of them."""


@command.command
@click.argument("release")
@click.argument("sae_id")
@overlays_option
@json_option
def lookup(release: str, sae_id: str, overlays: Sequence[Path], as_json: bool) -> None:
    """Where the weights of an SAE are, and what is known of it."""
    sae = asdict(registry.lookup(release, sae_id, overlays))
    if as_json:
        click.echo(json.dumps(sae))
        return
    known = [(key, str(value)) for key, value in sae.items() if value is not None]
    page = [] if local_folder(sae["repo_id"]) else [("page", f"https://huggingface.co/{sae['repo_id']}")]
    click.echo(aligned([*known, *page]))


@command.command(name="list")
@overlays_option
@json_option
def list_all(overlays: Sequence[Path], as_json: bool) -> None:
    """List the releases."""
    rows = [
        (each.name, len(each.saes), each.model, each.repo_id, each.format) for each in registry.every_release(overlays)
    ]
    header = ("release", "saes", "model", "repo_id", "format")
    if as_json:
        click.echo(json.dumps([dict(zip(header, row, strict=True)) for row in rows]))
        return
    click.echo(aligned([header, *(tuple(map(str, row)) for row in rows)]))


@command.command
@click.argument("release")
@overlays_option
@limit_option
@json_option
def show(release: str, overlays: Sequence[Path], limit: int, as_json: bool) -> None:
    """Show a release and its SAEs."""
    found = registry.find_release(release, overlays)
    about = {"model": found.model, "repo_id": found.repo_id, "format": found.format, "revision": found.revision,
             "license": found.license, **found.links, "file": str(found.file)}  # fmt: skip
    saes = list(found.saes.values())
    if as_json:
        config: Mapping[str, Any] = found.config
        click.echo(
            json.dumps({"release": found.name, **about, "config": config, "saes": [asdict(sae) for sae in saes]})
        )
        return
    known = [(key, str(value)) for key, value in about.items() if value]
    click.echo(f"{found.name}\n{aligned(known)}\n")
    _table(saes, limit, ("sae_id", "layer", "site", "width", "l0", "path", "neuronpedia_id"))


@command.command
@click.argument("words", nargs=-1)
@click.option("--model", help="Only SAEs of models with this in their name.")
@click.option("--layer", type=int, help="Only SAEs of this layer.")
@click.option("--site", type=click.Choice(SITES), help="Only SAEs at this place of a layer.")
@click.option("--width", help="Only SAEs with so many features: 16384, 16k, 1m.")
@click.option("--min-l0", type=float, help="Only SAEs with at least so many active features.")
@click.option("--max-l0", type=float, help="Only SAEs with at most so many active features.")
@overlays_option
@limit_option
@json_option
def search(
    words: tuple[str, ...], width: str | None, overlays: Sequence[Path], limit: int, as_json: bool, **facts: Any
) -> None:
    """Find SAEs whose names hold all WORDS: sae-platform registry search gemma 2b layer 12 16k."""
    features = None if width is None else registry.parse_width(width)
    found = registry.search(" ".join(words), width=features, overlays=overlays, **facts)
    if as_json:
        click.echo(json.dumps([asdict(sae) for sae in found]))
        return
    if not found:
        raise PlatformError("No SAE in the registry is like this. Fewer words find more.")
    _table(found, limit, ("release", "sae_id", "layer", "site", "width", "l0"))


@command.command
@overlays_option
def dump(overlays: Sequence[Path]) -> None:
    """Print every SAE as a line of JSON."""
    for release in registry.every_release(overlays):
        for sae in release.saes.values():
            click.echo(json.dumps({key: getattr(sae, key) for key in DUMPED}))


for upkeep in (registry_upkeep.check, registry_upkeep.pin, registry_upkeep.add, registry_upkeep.pull):
    command.add_command(upkeep)


def _table(saes: Sequence[ReleasedSAE], limit: int, columns: Sequence[str]) -> None:
    shown = saes[: limit or None]
    used = [name for name in columns if any(getattr(sae, name) is not None for sae in shown)]
    rows = [["-" if (value := getattr(sae, name)) is None else f"{value}" for name in used] for sae in shown]
    click.echo(aligned([used, *rows]))
    if len(saes) > len(shown):
        click.echo(f"... and {len(saes) - len(shown):,} more; --limit 0 prints all.", err=True)
