"""The configurations of SAEs in training, under SAELens 6's names and with its defaults."""

from __future__ import annotations

from typing import Any

from sae_platform.components import SAEConfig
from sae_platform.config import validated
from sae_platform.plugins import installed_plugins
from sae_platform.saelens.words import OF_SAES


def StandardTrainingSAEConfig(**settings: Any) -> SAEConfig:
    return _training_sae("standard", {"l1_coefficient": 1.0, **settings})


def GatedTrainingSAEConfig(**settings: Any) -> SAEConfig:
    return _training_sae("gated", {"l1_coefficient": 1.0, **settings})


def TopKTrainingSAEConfig(**settings: Any) -> SAEConfig:
    return _training_sae("topk", {"k": 100, "decoder_init_norm": 0.1, **settings})


def JumpReLUTrainingSAEConfig(**settings: Any) -> SAEConfig:
    return _training_sae(
        "jumprelu",
        {
            "jumprelu_init_threshold": 0.01,
            "jumprelu_bandwidth": 0.05,
            "decoder_init_norm": 0.1,
            "l0_coefficient": 1.0,
            **settings,
        },
    )


def _training_sae(architecture: str, settings: dict[str, Any]) -> SAEConfig:
    """The configuration of an architecture, in the words of SAELens 6. PlatformError for what it does not have."""
    ours = {OF_SAES.get(name, name): value for name, value in settings.items()}
    return validated({"sae": {"architecture": architecture, **ours}}, installed_plugins()).sae
