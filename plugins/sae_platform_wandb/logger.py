"""One W&B run for a run directory, with explicit steps; metrics.db stays the source of truth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_platform.loggers import Logger
from sae_platform_wandb import WandbConfig

GROUPS = {  # SAELens' paths
    "loss": "losses/overall_loss",
    "dead_features": "sparsity/dead_features",
    "dead_fraction": "sparsity/dead_fraction",
    "learning_rate": "details/current_learning_rate",
    "tokens": "details/n_training_samples",
}
FAMILIES = {
    "ce_loss_": "model_performance_preservation", "kl_div_": "model_behavior_preservation", "": "metrics",
}  # fmt: skip
SECRET = ("key", "token", "secret", "password")


class WandbLogger(Logger):
    def __init__(self, cfg: WandbConfig) -> None:
        self._cfg = cfg
        self._run: Any = None

    def start(self, run: Mapping[str, Any], directory: Path) -> None:
        import wandb

        cfg = self._cfg
        self._run = wandb.init(
            project=cfg.project, entity=cfg.entity, name=cfg.name or directory.name, id=cfg.id, mode=cfg.mode,
            dir=str(directory), config=shown(run), reinit="create_new",
            settings=wandb.Settings(disable_git=True, disable_code=True, console="off", silent=True),
        )  # fmt: skip

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._run.log({path_of(name): value for name, value in metrics.items()}, step=step)

    def finish(self, state: str) -> None:
        self._run.finish(exit_code=0 if state == "finished" else 1)


def path_of(name: str) -> str:
    """Where SAELens shows a metric."""
    if name in GROUPS:
        return GROUPS[name]
    if name.endswith("_coefficient"):
        return f"details/{name}"
    if name.endswith("_loss"):
        return f"losses/{name}"
    return next(f"{family}/{name}" for start, family in FAMILIES.items() if name.startswith(start))


def shown(settings: Any) -> Any:
    """The configuration without anything that may be a secret: W&B keeps it in clear."""
    if isinstance(settings, Mapping):
        return {
            key: "(not shown)" if str(key).lower().split("_")[-1] in SECRET else shown(value)
            for key, value in settings.items()
        }
    return [shown(value) for value in settings] if isinstance(settings, (list, tuple)) else settings
