"""`sae-platform train`: from a run file to a finished run directory."""

from __future__ import annotations

from pathlib import Path

import click

from sae_platform.errors import Interrupted


@click.command()
@click.argument("run_file", metavar="[RUN.toml]", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set", "settings", metavar="TABLE.KEY=VALUE", multiple=True, help="Change one setting; may be repeated."
)
@click.option("--runs", default="runs", type=click.Path(path_type=Path), show_default=True, help="Folder of all runs.")
@click.option("--name", help="Name of the run's folder.  [default: architecture and time]")
def command(run_file: Path | None, settings: tuple[str, ...], runs: Path, name: str | None) -> None:
    """Train a sparse autoencoder, evaluate it on held-out data and save it.

    Without a run file this trains the embedded default: a TopK SAE on the language model in the package. The run's
    directory is the last line of stdout; everything else goes to stderr.
    """
    from sae_platform.config import read_run

    run = read_run(run_file, settings)
    from sae_platform.cli.progress import TrainingDisplay
    from sae_platform.training import train

    display = TrainingDisplay(run.training.tokens)
    try:
        directory = train(run, runs, name, display)
    except Interrupted:
        click.echo(str(display.directory))
        raise
    display.summary(directory)
    click.echo(str(directory.path))
