"""The hooks a plugin may implement. Each returns config classes, one of them folders; none does any work."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from sae_platform.components import (
        ActivationSourceConfig,
        ExporterConfig,
        LoggerConfig,
        SAEConfig,
        WeightFormat,
    )

PROJECT = "sae_platform"
GROUP = "sae_platform"  # of entry points
DISTRIBUTION = "sae-platform"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_architectures() -> Iterable[type[SAEConfig]]:
    """Offer autoencoder architectures."""
    return ()


@hookspec
def register_activation_sources() -> Iterable[type[ActivationSourceConfig]]:
    """Offer streams of activations to train on."""
    return ()


@hookspec
def register_loggers() -> Iterable[type[LoggerConfig]]:
    """Offer destinations for training metrics."""
    return ()


@hookspec
def register_exporters() -> Iterable[type[ExporterConfig]]:
    """Offer places to publish a finished run."""
    return ()


@hookspec
def register_formats() -> Iterable[type[WeightFormat]]:
    """Offer readers of released weights."""
    return ()


@hookspec
def register_releases() -> Iterable[Path]:
    """Offer folders of release files, for the registry to look in."""
    return ()
