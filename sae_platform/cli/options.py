"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

overlays_option = click.option(
    "--registry",
    "overlays",
    multiple=True,
    type=click.Path(path_type=Path),
    help="A folder of release files to look in as well; may be repeated.",
)
