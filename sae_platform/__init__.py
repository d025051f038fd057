"""SAE Platform: train, evaluate and share sparse autoencoders from plugins.

Names resolve lazily (PEP 562), so importing the package costs no torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# torch reads this when it first takes memory: large tensors on huge pages, where gathers of rows are much faster.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

if TYPE_CHECKING:
    from sae_platform.activations import ActivationSource, Batch, LanguageModelSource
    from sae_platform.components import (
        ActivationSourceConfig,
        ExporterConfig,
        LoggerConfig,
        SAEConfig,
        SAEMetadata,
        TokenPolicy,
    )
    from sae_platform.config import EvaluationConfig, RunConfig, read_run
    from sae_platform.errors import PlatformError
    from sae_platform.evaluation import evaluate
    from sae_platform.hookspecs import hookimpl
    from sae_platform.linear import LinearSAE
    from sae_platform.loggers import Logger
    from sae_platform.runs import RunDirectory
    from sae_platform.sae import SAE, StepOutput, StepState
    from sae_platform.sparse import SparseFeatures
    from sae_platform.training import train

_HOME = {
    "SAE": "sae",
    "ActivationSource": "activations",
    "ActivationSourceConfig": "components",
    "Batch": "activations",
    "EvaluationConfig": "config",
    "ExporterConfig": "components",
    "LanguageModelSource": "activations",
    "LinearSAE": "linear",
    "Logger": "loggers",
    "LoggerConfig": "components",
    "PlatformError": "errors",
    "RunConfig": "config",
    "RunDirectory": "runs",
    "SAEConfig": "components",
    "SAEMetadata": "components",
    "SparseFeatures": "sparse",
    "StepOutput": "sae",
    "StepState": "sae",
    "TokenPolicy": "components",
    "evaluate": "evaluation",
    "hookimpl": "hookspecs",
    "read_run": "config",
    "train": "training",
}

__all__ = [
    "SAE",
    "ActivationSource",
    "ActivationSourceConfig",
    "Batch",
    "EvaluationConfig",
    "ExporterConfig",
    "LanguageModelSource",
    "LinearSAE",
    "Logger",
    "LoggerConfig",
    "PlatformError",
    "RunConfig",
    "RunDirectory",
    "SAEConfig",
    "SAEMetadata",
    "SparseFeatures",
    "StepOutput",
    "StepState",
    "TokenPolicy",
    "evaluate",
    "hookimpl",
    "read_run",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
