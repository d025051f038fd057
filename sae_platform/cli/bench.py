"""`sae-platform bench`: how fast this machine is."""

from __future__ import annotations

import json
from pathlib import Path

import click

from sae_platform.cli.table import aligned

MEANINGS = {
    "text": "documents to contexts of tokens",
    "model": "contexts to activations at the hook",
    "harvest": "all that the source does",
    "buffer": "shuffling rows that are in memory",
    "step": "training on rows that are in memory",
    "together": "all of it, through a small buffer that is full",
}


@click.group(name="bench")
def command() -> None:
    """Measure how fast this machine is."""


@command.command
@click.argument("run_file", metavar="[RUN.toml]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set", "settings", metavar="TABLE.KEY=VALUE", multiple=True, help="Change one setting; may be repeated."
)
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(min=0.01), help="How long to measure each."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stages(run_file: Path | None, settings: tuple[str, ...], seconds: float, as_json: bool) -> None:
    """Tokens a second of every stage of a run: its source, its buffer, its training steps, and all of them together.

    Without a run file this measures the embedded default. Nothing is written.
    """
    from sae_platform.config import read_run

    run = read_run(run_file, settings)
    from sae_platform.stages import measure_stages

    measured = []
    for stage in measure_stages(run, seconds):
        click.echo(f"measured {stage.name}", err=True)
        measured.append(stage)
    if as_json:
        click.echo(json.dumps({stage.name: round(stage.tokens_per_second, 1) for stage in measured}))
        return
    rows = [[stage.name, f"{stage.tokens_per_second:,.0f}", MEANINGS[stage.name]] for stage in measured]
    click.echo(aligned([["stage", "tokens/s", "what"], *rows]))
