"""`sae-platform evaluate`: held-out metrics of a run, a checkpoint or an SAE folder."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--tokens", type=click.IntRange(min=1), help="Held-out activations to measure on.")
@click.option("--preservation-tokens", type=click.IntRange(min=0), help="Tokens to run the model on; 0 leaves it out.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def command(path: Path, tokens: int | None, preservation_tokens: int | None, device: str, as_json: bool) -> None:
    """Measure an SAE on held-out data of the source it was trained on.

    PATH is a run directory, a checkpoint or an SAE folder.
    """
    from sae_platform.weights import find_sae_folder

    folder = find_sae_folder(path)
    from sae_platform.config import EvaluationConfig
    from sae_platform.devices import usable_device
    from sae_platform.evaluation import evaluate
    from sae_platform.metrics import without_nan
    from sae_platform.sae import SAE

    given = {"tokens": tokens, "preservation_tokens": preservation_tokens}
    settings = EvaluationConfig(**{name: value for name, value in given.items() if value is not None})
    sae = SAE.load_from_disk(folder, device=str(usable_device(device)))
    results = evaluate(sae, settings=settings)
    if as_json:
        click.echo(json.dumps({**without_nan(results), "path": str(folder)}, indent=1))
    else:
        from rich.console import Console

        from sae_platform.cli.progress import metrics_table

        Console(highlight=False, markup=False, emoji=False).print(metrics_table(without_nan(results), str(folder)))
