"""What W&B wrote on this machine, read back with its own tool."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def records(folder: Path) -> list[str]:
    """The lines of the run in a folder."""
    (file,) = folder.rglob("run-*.wandb")
    command = [str(Path(sys.executable).parent / "wandb"), "leet", "inspect", "--json", str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "WANDB_MODE": "offline"}
    )
    return done.stdout.splitlines()
