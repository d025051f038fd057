from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sae_platform import PlatformError
from sae_platform_transformers import TransformersSourceConfig, models

TOKENS = torch.arange(12).reshape(1, 12) + 3


@pytest.fixture
def build(model_folder: Any, text_file: Path) -> Any:
    def _build(**settings: Any) -> Any:
        settings = {"model": str(model_folder()), "dataset": str(text_file), "context_size": 12} | settings
        return TransformersSourceConfig(**settings).build()

    return _build


def changed_config(folder: Path, copy: Path, **changes: Any) -> Path:
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | changes))
    return copy


def test_a_half_precision_file_comes_as_the_dtype_asked_for(build: Any, model_folder: Any) -> None:
    folder = str(model_folder("gpt2", "float16"))
    single, half = build(model=folder), build(model=folder, dtype="bfloat16")
    assert single.model.dtype == single.dtype == single.activations(TOKENS).dtype == torch.float32
    assert half.model.dtype == half.dtype == half.activations(TOKENS).dtype == torch.bfloat16


def test_a_loaded_model_is_frozen(build: Any) -> None:
    model = build().model
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_metadata_says_how_to_do_it_again(build: Any, model_folder: Any, text_file: Path) -> None:
    source = build()
    metadata = source.metadata
    assert (source.d_in, source.causal) == (8, True)
    assert (metadata.model_name, metadata.dataset_path) == (str(model_folder()), str(text_file))
    assert (metadata.hook_name, metadata.context_size) == ("blocks.1.hook_resid_post", 12)
    assert metadata.token_policy.context_size == 12
    assert TransformersSourceConfig(**metadata.source) == source.cfg


def test_a_missing_model_path_is_named(build: Any) -> None:
    with pytest.raises(PlatformError, match=r"The model folder '/no/such/model' does not exist"):
        build(model="/no/such/model")


def test_a_folder_that_is_no_model_is_named(build: Any, tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match=f"{tmp_path}' has no config.json"):
        build(model=str(tmp_path))


def test_a_local_model_has_no_revision(build: Any) -> None:
    with pytest.raises(PlatformError, match=r"model_revision is 'main', but .* is a local folder"):
        build(model_revision="main")


def test_a_hub_model_that_cannot_be_reached_is_explained(build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "hub_is_reachable", lambda: False)
    with pytest.raises(PlatformError) as error:
        build(model="nobody/no-such-model")
    assert "Cannot load the configuration of the model 'nobody/no-such-model' from the" in str(error.value)
    assert 'Give a local folder, a name from https://huggingface.co/models, or model = "tinypy"' in str(error.value)


def test_damaged_weights_are_refused(build: Any, model_folder: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder(), tmp_path / "model")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-9])
    with pytest.raises(PlatformError, match=f"Cannot load the weights of the model '{folder}' from its folder"):
        build(model=str(folder))


def test_weights_that_lack_a_tensor_are_refused(build: Any, model_folder: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder(), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    del tensors["transformer.h.0.ln_1.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(PlatformError, match=r"lack 1 tensors, first 'transformer.h.0.ln_1.weight'"):
        build(model=str(folder))


def test_a_missing_tokenizer_is_named(build: Any, model_folder: Any, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder(), tmp_path / "model", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(PlatformError, match=f"The model '{folder}' comes without a tokenizer"):
        build(model=str(folder))


def test_an_encoder_decoder_is_refused(build: Any, model_folder: Any, tmp_path: Path) -> None:
    folder = changed_config(model_folder(), tmp_path / "model", is_encoder_decoder=True)
    with pytest.raises(PlatformError, match="encoder-decoder"):
        build(model=str(folder))


def test_a_model_that_needs_its_own_code_is_refused(build: Any, model_folder: Any, tmp_path: Path) -> None:
    own_code = {"model_type": "strange", "auto_map": {"AutoConfig": "strange.StrangeConfig"}}
    folder = changed_config(model_folder(), tmp_path / "model", **own_code)
    (folder / "strange.py").write_text("raise AssertionError('remote code must not run')")
    with pytest.raises(PlatformError, match="Cannot load the configuration"):
        build(model=str(folder))


def test_a_context_longer_than_the_model_is_refused(build: Any) -> None:
    with pytest.raises(PlatformError, match=r"context_size is 33, but .* has only 32 positions"):
        build(context_size=33)


@pytest.mark.parametrize("device", ["nowhere", "cuda:77"])
def test_a_device_that_is_not_there_is_named(build: Any, device: str) -> None:
    with pytest.raises(PlatformError, match=f"The device '{device}' cannot be used"):
        build(device=device)


def test_a_wrong_hook_is_found_before_text_and_weights_are_read(build: Any) -> None:
    with pytest.raises(PlatformError, match="no hook"):
        build(hook_name="nonsense", dataset="/no/such/text")


@pytest.mark.skipif(not models.EMBEDDED["tinypy"].exists(), reason="tinypy is not built")
def test_the_embedded_model_needs_nothing_from_outside() -> None:
    source = TransformersSourceConfig().build()
    assert (source.d_in, source.causal, source.metadata.model_name) == (192, True, "tinypy")
    contexts, batch = next(source.contexts("held_out")), next(source.harvest("held_out"))
    assert contexts.tokens.shape == (16, 128)
    assert batch.x.shape == (contexts.kept.sum(), 192)
