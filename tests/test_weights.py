"""The SAE folder: what is on disk, that it comes back, and that folders of SAELens load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_platform import SAE, PlatformError, weights
from sae_platform.testing import train_steps
from saved import D_IN, D_SAE, edit, trained

SHAPES = {
    "W_enc": (D_IN, D_SAE),
    "W_dec": (D_SAE, D_IN),
    "b_enc": (D_SAE,),
    "b_dec": (D_IN,),
    "b_gate": (D_SAE,),
    "b_mag": (D_SAE,),
    "r_mag": (D_SAE,),
    "threshold": (D_SAE,),
}
TENSORS = {
    "standard": {"W_enc", "W_dec", "b_enc", "b_dec"},
    "topk": {"W_enc", "W_dec", "b_enc", "b_dec"},
    "jumprelu": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
    "gated": {"W_enc", "W_dec", "b_dec", "b_gate", "b_mag", "r_mag"},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", TENSORS)
def test_a_saved_sae_comes_back_bit_for_bit(architecture: str, dtype: str, tmp_path: Path) -> None:
    saved = trained(architecture, dtype=dtype)
    saved.save_model(tmp_path)
    loaded = SAE.load_from_disk(tmp_path)
    assert type(loaded) is type(saved)
    assert loaded.cfg == saved.cfg
    assert loaded.cfg.dtype == dtype
    assert not loaded.training
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    for name, tensor in saved.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    x = torch.randn(8, D_IN)
    assert torch.equal(loaded(x), saved(x))


def test_a_loaded_sae_can_be_trained_further(sae_folder: Path) -> None:
    sae = SAE.load_from_disk(sae_folder)
    before = [p.detach().clone() for p in sae.parameters()]
    train_steps(sae, torch.randn(16, D_IN), 2)
    assert all(p.is_contiguous() and p.requires_grad for p in sae.parameters())
    assert not any(torch.equal(p, old) for p, old in zip(sae.parameters(), before, strict=True))


def test_the_training_form_keeps_its_input_scale(tmp_path: Path) -> None:
    sae = trained(normalize_activations="expected_average_only_in")
    sae.initialise(3 * torch.randn(16, D_IN))
    sae.save_model(tmp_path)
    assert load_file(tmp_path / weights.WEIGHTS)["input_scale"].shape == ()
    x = torch.randn(8, D_IN)
    assert torch.equal(SAE.load_from_disk(tmp_path)(x), sae(x))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", TENSORS)
def test_the_file_holds_the_tensors_that_saelens_reads_and_no_others(
    architecture: str, dtype: str, tmp_path: Path
) -> None:
    sae = trained(architecture, dtype=dtype)
    sae.save_model(tmp_path)
    tensors = load_file(tmp_path / weights.WEIGHTS)
    assert tensors.keys() == TENSORS[architecture]
    for name, tensor in tensors.items():
        assert tensor.shape == SHAPES[name], name
        assert tensor.dtype == getattr(torch, dtype), name
        assert torch.equal(tensor, getattr(sae, name)), name
    with safe_open(tmp_path / weights.WEIGHTS, framework="pt") as file:
        assert not file.metadata()


@pytest.mark.parametrize("architecture", TENSORS)
def test_cfg_json_holds_what_saelens_6_needs(architecture: str, tmp_path: Path) -> None:
    trained(architecture, dtype="bfloat16").save_model(tmp_path)
    cfg = json.loads((tmp_path / weights.CONFIG).read_text())
    assert {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "bfloat16",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }.items() <= cfg.items()
    assert {
        "model_name": "gpt2",
        "hook_name": "blocks.7.hook_resid_pre",
        "hook_head_index": None,
        "dataset_path": "some/text",
        "context_size": 128,
        "prepend_bos": False,
        "exclude_special_tokens": True,
        "seqpos_slice": [None],
    }.items() <= cfg["metadata"].items()
    assert int(cfg["metadata"]["sae_lens_version"].split(".")[0]) >= 6
    assert int(cfg["sae_lens_version"].split(".")[0]) >= 6
    if architecture == "topk":
        assert cfg["k"] == 2
        assert cfg["rescale_acts_by_decoder_norm"] is True


@pytest.mark.parametrize("architecture", TENSORS)
def test_cfg_json_holds_what_saelens_3_to_5_need(architecture: str, tmp_path: Path) -> None:
    trained(architecture).save_model(tmp_path)
    cfg = json.loads((tmp_path / weights.CONFIG).read_text())
    assert {
        "architecture": architecture,
        "d_in": D_IN,
        "d_sae": D_SAE,
        "activation_fn_str": "topk" if architecture == "topk" else "relu",
        "activation_fn_kwargs": {"k": 2} if architecture == "topk" else {},
        "apply_b_dec_to_input": True,
        "finetuning_scaling_factor": False,
        "context_size": 128,
        "model_name": "gpt2",
        "hook_name": "blocks.7.hook_resid_pre",
        "hook_layer": 7,
        "hook_head_index": None,
        "prepend_bos": False,
        "dataset_path": "some/text",
        "dataset_trust_remote_code": False,
        "normalize_activations": "none",
        "dtype": "float32",
        "device": "cpu",
    }.items() <= cfg.items()
    assert cfg["sae_lens_training_version"]


def saelens_folder(folder: Path, architecture: str = "standard", **settings: Any) -> dict[str, Tensor]:
    """A folder as SAELens 6 writes it; gives its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    cfg = {
        "d_in": D_IN,
        "d_sae": D_SAE,
        "dtype": "torch.float32",
        "device": "cuda",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "a_key_of_the_future": 1,
        "metadata": {
            "sae_lens_version": "6.54.12",
            "hook_name": "blocks.8.hook_resid_pre",
            "model_name": "gpt2-small",
            "seqpos_slice": [None],
            "l0": 52.1,
        },
        "architecture": architecture,
        **settings,
    }
    (folder / "cfg.json").write_text(json.dumps(cfg))
    generator = torch.Generator().manual_seed(0)
    tensors = {name: torch.randn(SHAPES[name], generator=generator) for name in sorted(TENSORS[architecture])}
    save_file(tensors, folder / "sae_weights.safetensors")
    return tensors


@pytest.mark.parametrize("architecture", TENSORS)
def test_a_folder_written_by_saelens_6_loads(architecture: str, tmp_path: Path) -> None:
    extra = {"topk": {"k": 2, "rescale_acts_by_decoder_norm": True}}.get(architecture, {})
    tensors = saelens_folder(tmp_path, architecture, **extra)
    sae = SAE.load_from_disk(tmp_path)
    assert sae.cfg.architecture == architecture
    assert sae.cfg.dtype == "float32"
    assert sae.cfg.device == "cpu"
    assert sae.cfg.hook_name == "blocks.8.hook_resid_pre"
    assert sae.cfg.model_name == "gpt2-small"
    assert sae.cfg.metadata.model_extra == {"sae_lens_version": "6.54.12", "seqpos_slice": [None], "l0": 52.1}
    for name, tensor in tensors.items():
        assert torch.equal(getattr(sae, name), tensor), name


def test_a_saelens_folder_reconstructs_by_the_formula(tmp_path: Path) -> None:
    t = saelens_folder(tmp_path)
    x = torch.randn(8, D_IN)
    expected = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu() @ t["W_dec"] + t["b_dec"]
    torch.testing.assert_close(SAE.load_from_disk(tmp_path)(x), expected)


def test_firing_frequencies_are_saved_beside_the_weights(tmp_path: Path) -> None:
    sparsity = torch.linspace(-10, 0, D_SAE, dtype=torch.float64)
    paths = trained().save_model(tmp_path, sparsity)
    assert {path.name for path in paths} == {"cfg.json", "sae_weights.safetensors", "sparsity.safetensors"}
    assert all(path.is_file() for path in paths)
    (name, tensor), *rest = load_file(tmp_path / "sparsity.safetensors").items()
    assert rest == []
    assert name == "sparsity"
    assert torch.equal(tensor, sparsity.float())


def test_without_firing_frequencies_two_files_are_written(tmp_path: Path) -> None:
    paths = trained().save_model(tmp_path / "made" / "on the way")
    assert sorted(path.name for path in (tmp_path / "made" / "on the way").iterdir()) == [
        "cfg.json",
        "sae_weights.safetensors",
    ]
    assert sorted(path.name for path in paths) == ["cfg.json", "sae_weights.safetensors"]


def test_others_may_read_what_is_written(tmp_path: Path) -> None:
    for path in trained().save_model(tmp_path, torch.zeros(D_SAE)):
        assert path.stat().st_mode & 0o777 == 0o644, path.name


def test_an_sae_is_loaded_in_the_dtype_and_on_the_device_that_are_asked_for(sae_folder: Path) -> None:
    half = SAE.load_from_disk(sae_folder, dtype="bfloat16")
    assert half.cfg.dtype == "bfloat16"
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert SAE.load_from_disk(sae_folder, dtype="torch.float64").cfg.dtype == "float64"
    elsewhere = SAE.load_from_disk(sae_folder, device="meta")
    assert elsewhere.cfg.device == "meta"
    assert {p.device.type for p in elsewhere.parameters()} == {"meta"}
    with pytest.raises(PlatformError, match="'int8'.*bfloat16, float16, float32, float64"):
        SAE.load_from_disk(sae_folder, dtype="int8")


def test_an_sae_from_another_device_is_loaded_on_the_one_that_is_asked_for(sae_folder: Path) -> None:
    edit(sae_folder, device="cuda:3")
    assert SAE.load_from_disk(sae_folder).cfg.device == "cpu"


def test_loading_leaves_the_random_numbers_alone(sae_folder: Path) -> None:
    before = torch.get_rng_state()
    SAE.load_from_disk(sae_folder)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_class_loads_only_its_own_kind(sae_folder: Path) -> None:
    with pytest.raises(PlatformError, match="StandardSAE.*GatedSAE.*load it as an SAE"):
        type(trained("gated")).load_from_disk(sae_folder)
    assert type(trained()).load_from_disk(sae_folder).cfg.architecture == "standard"
