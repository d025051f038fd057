"""`sae-platform config`: check a run file, show what it resolves to, and the schema of all of them."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.group()
def command() -> None:
    """Check a run file and show what it resolves to."""


@command.command()
@click.argument("run_file", metavar="[RUN.toml]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set", "settings", metavar="TABLE.KEY=VALUE", multiple=True, help="Change one setting; may be repeated."
)
def show(run_file: Path | None, settings: tuple[str, ...]) -> None:
    """Print the resolved run file, every default filled in."""
    from sae_platform.config import read_run

    click.echo(read_run(run_file, settings).to_toml(), nl=False)


@command.command()
def schema() -> None:
    """Print the JSON schema of run files, for the plugins that are installed."""
    from sae_platform.config import json_schema
    from sae_platform.plugins import installed_plugins

    click.echo(json.dumps(json_schema(installed_plugins()), indent=2))
