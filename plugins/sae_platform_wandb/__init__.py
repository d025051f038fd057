"""Weights & Biases: a run's metrics under the names that SAELens gives them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from sae_platform.components import LoggerConfig
from sae_platform.errors import PlatformError
from sae_platform.hookspecs import hookimpl

if TYPE_CHECKING:
    from sae_platform_wandb.logger import WandbLogger


class WandbConfig(LoggerConfig):
    """The API key comes from `wandb login` or WANDB_API_KEY, never from here."""

    kind: Literal["wandb"] = "wandb"
    project: str = Field("sae-platform", description="project that the run belongs to")
    entity: str | None = Field(None, description="user or team; default: the one that is logged in")
    name: str | None = Field(None, description="of the run; default: that of its directory")
    id: str | None = Field(None, description="of the run in W&B; default: a new one")
    mode: Literal["online", "offline"] | None = Field(None, description="default: WANDB_MODE, or online")

    def build(self) -> WandbLogger:
        """PlatformError when wandb is not installed."""
        if find_spec("wandb") is None:
            raise PlatformError("The logger wandb needs the package wandb: pip install 'sae-platform[wandb]'.")
        from sae_platform_wandb.logger import WandbLogger

        return WandbLogger(self)


@hookimpl
def register_loggers() -> list[type[LoggerConfig]]:
    return [WandbConfig]
