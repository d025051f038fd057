"""Trains what a configuration in SAELens' words describes."""

from __future__ import annotations

from pathlib import Path

from sae_platform.runs import RunDirectory
from sae_platform.sae import SAE
from sae_platform.saelens.config import LanguageModelSAERunnerConfig
from sae_platform.training import train


class SAETrainingRunner:
    """Trains what a configuration describes."""

    def __init__(self, cfg: LanguageModelSAERunnerConfig) -> None:
        self.cfg = cfg
        self.directory: RunDirectory | None = None  # of the last run

    def run(self) -> SAE:
        """Train, evaluate and save; the SAE that was saved. Its run is a folder under `checkpoint_path`."""
        name = (self.cfg.logger or self.cfg).run_name
        self.directory = train(self.cfg.to_run_config(), runs=Path(self.cfg.checkpoint_path), name=name)
        return SAE.load_from_disk(self.directory.sae_path, device=self.cfg.device)


LanguageModelSAETrainingRunner = SAETrainingRunner  # its name in SAELens 6
