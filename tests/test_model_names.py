"""Short names of models are those that TransformerLens means by them, and cover the registry."""

from __future__ import annotations

import pytest

from sae_platform import registry
from sae_platform.model_names import hub_name


def test_every_model_of_the_registry_has_a_place_on_the_hub() -> None:
    models = {release.model for release in registry.every_release() if release.model}
    assert len(models) > 20
    assert [model for model in models if "/" not in hub_name(model)] == []


def test_they_mean_what_transformer_lens_means() -> None:
    names = pytest.importorskip("transformer_lens.supported_models")
    theirs = {alias: name for name, aliases in names.MODEL_ALIASES.items() for alias in aliases}
    models = {release.model for release in registry.every_release() if "/" not in release.model} | {"gpt2-xl"}
    shared = {model: theirs[model] for model in models if model in theirs}
    assert len(shared) > 5
    assert {model: hub_name(model).removeprefix("openai-community/") for model in shared} == {
        model: name.removeprefix("openai-community/") for model, name in shared.items()
    }


def test_other_names_stay() -> None:
    assert [hub_name(name) for name in ("google/gemma-2-2b", "tinypy")] == ["google/gemma-2-2b", "tinypy"]
