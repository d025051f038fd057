"""Folders of older SAELens releases, and what of them cannot be kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_platform import SAE, PlatformError, SAEConfig
from sae_platform.cfg_json import describe, understood
from sae_platform.components import TokenPolicy

D_IN, D_SAE = 4, 6
FLAT = {  # as 5.11 writes it
    "architecture": "standard", "d_in": D_IN, "d_sae": D_SAE, "dtype": "torch.float32", "device": "cuda",
    "model_name": "gpt2-small", "hook_name": "blocks.8.hook_resid_pre", "hook_layer": 8, "hook_head_index": None,
    "activation_fn_str": "relu", "activation_fn_kwargs": {}, "apply_b_dec_to_input": True,
    "finetuning_scaling_factor": False, "sae_lens_training_version": "5.11.0", "prepend_bos": True,
    "dataset_path": "openwebtext", "dataset_trust_remote_code": True, "context_size": 128,
    "normalize_activations": "none", "neuronpedia_id": "gpt2-small/8-res-jb",
    "model_from_pretrained_kwargs": {"center_writing_weights": True}, "seqpos_slice": [None],
}  # fmt: skip
SHAPES = {"W_enc": (D_IN, D_SAE), "W_dec": (D_SAE, D_IN), "b_enc": (D_SAE,), "b_dec": (D_IN,)}
X = torch.randn(16, D_IN, generator=torch.Generator().manual_seed(9))


def folder(
    path: Path, tensors: dict[str, Tensor] | None = None, drop: tuple[str, ...] = (), **changes: Any
) -> dict[str, Tensor]:
    """A folder with this flat configuration; gives its tensors."""
    content = {key: value for key, value in {**FLAT, **changes}.items() if key not in drop}
    (path / "cfg.json").write_text(json.dumps(content))
    generator = torch.Generator().manual_seed(0)
    found = {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()} | (tensors or {})
    save_file(found, path / "sae_weights.safetensors")
    return found


def preactivations(t: dict[str, Tensor]) -> Tensor:
    return (X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]


def test_a_flat_folder_reads_with_its_metadata(tmp_path: Path) -> None:
    t = folder(tmp_path)
    sae = SAE.load_from_disk(tmp_path)
    torch.testing.assert_close(sae(X), preactivations(t).relu() @ t["W_dec"] + t["b_dec"])
    assert (sae.cfg.hook_name, sae.cfg.model_name, sae.cfg.dtype) == (
        "blocks.8.hook_resid_pre",
        "gpt2-small",
        "float32",
    )
    extra = sae.cfg.metadata.model_extra
    assert extra is not None
    assert extra["hook_layer"] == 8
    assert sae.cfg.metadata.processing == {"center_writing_weights": True}


def test_the_names_and_gaps_of_the_oldest_folders_are_understood(tmp_path: Path) -> None:
    missing = ("architecture", "hook_name", "hook_layer", "activation_fn_str", "activation_fn_kwargs", "seqpos_slice")
    t = folder(
        tmp_path, {"scaling_factor": torch.ones(D_SAE)}, drop=missing, normalize_activations=False,
        hook_point="blocks.3.hook_mlp_out", hook_point_layer=3, activation_fn="relu",
    )  # fmt: skip
    sae = SAE.load_from_disk(tmp_path)
    assert (sae.cfg.architecture, sae.cfg.hook_name, sae.cfg.normalize_activations) == (
        "standard", "blocks.3.hook_mlp_out", "none",
    )  # fmt: skip
    torch.testing.assert_close(sae(X), preactivations(t).relu() @ t["W_dec"] + t["b_dec"])


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_topk_selects_by_the_pre_activations_as_they_are(architecture: str, tmp_path: Path) -> None:
    rows = 3 * torch.rand(D_SAE, 1) * torch.randn(D_SAE, D_IN)
    t = folder(
        tmp_path, {"W_dec": rows}, architecture=architecture, activation_fn_str="topk", activation_fn_kwargs={"k": 2}
    )
    sae = SAE.load_from_disk(tmp_path)
    top = preactivations(t).topk(2)
    features = torch.zeros(len(X), D_SAE).scatter(1, top.indices, top.values.relu())
    torch.testing.assert_close(sae.encode(X), features)
    torch.testing.assert_close(sae(X), features @ t["W_dec"] + t["b_dec"])
    sae.save_model(tmp_path / "again")
    torch.testing.assert_close(SAE.load_from_disk(tmp_path / "again").encode(X), features)


def test_a_finetuned_scale_goes_into_the_decoder(tmp_path: Path) -> None:
    scale = torch.rand(D_SAE) + 0.5
    t = folder(tmp_path, {"finetuning_scaling_factor": scale}, finetuning_scaling_factor=True)
    sae = SAE.load_from_disk(tmp_path)
    features = preactivations(t).relu()
    torch.testing.assert_close(sae.encode(X), features)
    torch.testing.assert_close(sae(X), (features * scale) @ t["W_dec"] + t["b_dec"])


def test_a_threshold_of_a_checkpoint_is_taken_out_of_its_logarithm(tmp_path: Path) -> None:
    threshold = torch.rand(D_SAE)
    t = folder(tmp_path, {"log_threshold": threshold.log()}, architecture="jumprelu")
    pre = preactivations(t)
    torch.testing.assert_close(SAE.load_from_disk(tmp_path).encode(X), pre.relu() * (pre > threshold))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"activation_fn_str": "tanh-relu"}, "activation function is 'tanh-relu'"),
        ({"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2, "signed": True}}, "{'signed': True}"),
        ({"normalize_activations": True}, "scaled by a factor in training"),
        ({"normalize_activations": "expected_average_only_in"}, "scaled by a factor in training"),
        ({"architecture": "crosscoder"}, "No architecture is called 'crosscoder'"),
        ({"dtype": "int4"}, "dtype 'int4' is not known"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(changes: dict[str, Any], problem: str, tmp_path: Path) -> None:
    folder(tmp_path, **changes)
    with pytest.raises(PlatformError, match="cfg.json does not describe") as error:
        SAE.load_from_disk(tmp_path)
    assert problem in str(error.value)


def test_a_scaling_factor_that_scales_is_refused(tmp_path: Path) -> None:
    folder(tmp_path, {"scaling_factor": torch.full((D_SAE,), 2.0)})
    with pytest.raises(PlatformError, match="scaling_factor is not 1 everywhere"):
        SAE.load_from_disk(tmp_path)


NESTED = {  # a folder that 6 writes in training
    "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "device": "cpu", "apply_b_dec_to_input": True,
    "normalize_activations": "none", "reshape_activations": "none", "decoder_init_norm": None,
    "metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.8.hook_resid_pre"},
}  # fmt: skip


def nested(path: Path, tensors: dict[str, Tensor], **settings: Any) -> None:
    (path / "cfg.json").write_text(json.dumps({**NESTED, **settings}))
    save_file(tensors, path / "sae_weights.safetensors")


@pytest.mark.parametrize("rescaled", [True, False])
@pytest.mark.parametrize("architecture", ["batchtopk", "matryoshka_batchtopk"])
def test_batch_topk_in_training_becomes_jumprelu(architecture: str, rescaled: bool, tmp_path: Path) -> None:
    t = folder(tmp_path)
    threshold = torch.tensor(0.4, dtype=torch.float64)
    nested(
        tmp_path, {**t, "topk_threshold": threshold}, architecture=architecture, k=2.5,
        rescale_acts_by_decoder_norm=rescaled,
    )  # fmt: skip
    sae = SAE.load_from_disk(tmp_path)
    norms = t["W_dec"].norm(dim=1) if rescaled else torch.ones(D_SAE)
    features = preactivations(t) * norms
    features = features * (features > 0.4)
    assert sae.cfg.architecture == "jumprelu"
    torch.testing.assert_close(sae.encode(X), features)
    torch.testing.assert_close(sae(X), features / norms @ t["W_dec"] + t["b_dec"])


def test_settings_of_training_that_are_null_are_no_obstacle(tmp_path: Path) -> None:
    t = folder(tmp_path) | {"threshold": torch.full((D_SAE,), 0.2)}
    nested(tmp_path, t, architecture="jumprelu", pre_act_loss_coefficient=None, target_l0=None)
    pre = preactivations(t)
    torch.testing.assert_close(SAE.load_from_disk(tmp_path).encode(X), pre * (pre > 0.2))


def test_an_architecture_of_a_plugin_that_is_missing_names_the_plugin(tmp_path: Path) -> None:
    SAEConfig(architecture="standard", d_in=D_IN, d_sae=D_SAE).build().save_model(tmp_path)
    content = json.loads((tmp_path / "cfg.json").read_text())
    content["sae_platform"]["architecture"], content["sae_platform_plugin"] = "folded", "sae-platform-folded"
    (tmp_path / "cfg.json").write_text(json.dumps(content))
    with pytest.raises(PlatformError, match="'folded' comes from the plugin sae-platform-folded.*pip install"):
        SAE.load_from_disk(tmp_path)


def test_saving_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    sae = SAEConfig(architecture="topk", d_in=D_IN, d_sae=D_SAE, k=2).build()
    saved = [{path.name: path.read_bytes() for path in sae.save_model(tmp_path / name)} for name in ("a", "b")]
    assert saved[0] == saved[1]


def test_what_saelens_says_of_tokens_and_places_survives(tmp_path: Path) -> None:
    said = {
        "hook_name": "blocks.1.mlp.hook_in", "hook_name_out": "blocks.1.hook_mlp_out", "prepend_bos": False,
        "sequence_separator_token": None, "exclude_special_tokens": False, "seqpos_slice": [1, None],
        "neuronpedia_id": "gpt2-small/8-res-jb", "something_else": 3,
    }  # fmt: skip
    cfg = understood({"architecture": "standard", "d_in": 4, "d_sae": 6, "metadata": said})
    metadata = cfg.metadata
    assert metadata.token_policy == TokenPolicy(prepend_bos=False, exclude_special_tokens=False, separator="none")
    assert (metadata.prepend_bos, metadata["neuronpedia_id"], metadata.get("absent", 5)) == (
        False,
        "gpt2-small/8-res-jb",
        5,
    )
    written = describe(cfg)["metadata"]
    assert {name: written[name] for name in said} == said
    for hook, shape in (("blocks.1.attn.hook_z", "hook_z"), ("blocks.1.hook_mlp_out", "none")):
        cfg = understood({"architecture": "standard", "d_in": 4, "d_sae": 6, "metadata": {"hook_name": hook}})
        assert describe(cfg)["reshape_activations"] == shape
