"""SAE Platform: train, evaluate and share sparse autoencoders from plugins.

Names resolve lazily (PEP 562), so importing the package costs no torch.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# torch reads this when it first takes memory: large tensors on huge pages, where dense steps are 10 to 25 % faster.
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
    from sae_platform.hooked import attach
    from sae_platform.hookspecs import hookimpl
    from sae_platform.linear import LinearSAE
    from sae_platform.loggers import Logger
    from sae_platform.neuronpedia import feature_url, fetch_feature, quick_list_url
    from sae_platform.runs import RunDirectory
    from sae_platform.sae import SAE, StepOutput, StepState
    from sae_platform.saelens.architectures import (
        GatedTrainingSAEConfig,
        JumpReLUTrainingSAEConfig,
        StandardTrainingSAEConfig,
        TopKTrainingSAEConfig,
    )
    from sae_platform.saelens.config import LanguageModelSAERunnerConfig, LoggingConfig
    from sae_platform.saelens.hooked_transformer import HookedSAETransformer, SAETransformerBridge
    from sae_platform.saelens.runner import LanguageModelSAETrainingRunner, SAETrainingRunner
    from sae_platform.saelens.store import ActivationsStore
    from sae_platform.sparse import SparseFeatures
    from sae_platform.training import train
    from sae_platform.uploading import upload_saes_to_huggingface

_HOME = {
    "ActivationSource": "activations",
    "ActivationSourceConfig": "components",
    "ActivationsStore": "saelens.store",
    "Batch": "activations",
    "EvaluationConfig": "config",
    "ExporterConfig": "components",
    "GatedTrainingSAEConfig": "saelens.architectures",
    "HookedSAETransformer": "saelens.hooked_transformer",
    "JumpReLUTrainingSAEConfig": "saelens.architectures",
    "LanguageModelSAERunnerConfig": "saelens.config",
    "LanguageModelSAETrainingRunner": "saelens.runner",
    "LanguageModelSource": "activations",
    "LinearSAE": "linear",
    "Logger": "loggers",
    "LoggerConfig": "components",
    "LoggingConfig": "saelens.config",
    "PlatformError": "errors",
    "RunConfig": "config",
    "RunDirectory": "runs",
    "SAE": "sae",
    "SAEConfig": "components",
    "SAEMetadata": "components",
    "SAETrainingRunner": "saelens.runner",
    "SAETransformerBridge": "saelens.hooked_transformer",
    "SparseFeatures": "sparse",
    "StandardTrainingSAEConfig": "saelens.architectures",
    "StepOutput": "sae",
    "StepState": "sae",
    "TokenPolicy": "components",
    "TopKTrainingSAEConfig": "saelens.architectures",
    "attach": "hooked",
    "evaluate": "evaluation",
    "feature_url": "neuronpedia",
    "fetch_feature": "neuronpedia",
    "hookimpl": "hookspecs",
    "quick_list_url": "neuronpedia",
    "read_run": "config",
    "train": "training",
    "upload_saes_to_huggingface": "uploading",
}

__all__ = [
    "SAE",
    "ActivationSource",
    "ActivationSourceConfig",
    "ActivationsStore",
    "Batch",
    "EvaluationConfig",
    "ExporterConfig",
    "GatedTrainingSAEConfig",
    "HookedSAETransformer",
    "JumpReLUTrainingSAEConfig",
    "LanguageModelSAERunnerConfig",
    "LanguageModelSAETrainingRunner",
    "LanguageModelSource",
    "LinearSAE",
    "Logger",
    "LoggerConfig",
    "LoggingConfig",
    "PlatformError",
    "RunConfig",
    "RunDirectory",
    "SAEConfig",
    "SAEMetadata",
    "SAETrainingRunner",
    "SAETransformerBridge",
    "SparseFeatures",
    "StandardTrainingSAEConfig",
    "StepOutput",
    "StepState",
    "TokenPolicy",
    "TopKTrainingSAEConfig",
    "attach",
    "evaluate",
    "feature_url",
    "fetch_feature",
    "hookimpl",
    "quick_list_url",
    "read_run",
    "train",
    "upload_saes_to_huggingface",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
