"""Weights whose format nobody names: it is found out from the files, on disk and in a repository."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from hub_server import Hub
from released import D_IN, D_SAE, K, X, layers, normal, place, read, released, weights
from sae_platform import SAE, PlatformError

Maker = Callable[[Path], str]  # writes an SAE and returns its path


def gemma_scope(root: Path) -> str:
    t = weights() | {"threshold": normal(D_SAE).abs()}
    arrays = {name.replace("W_", "w_"): tensor.numpy() for name, tensor in t.items()}
    np.savez(place(root, "layer_3/params.npz"), **arrays)
    return "layer_3"


def gemma_scope_2(root: Path) -> str:
    t = weights() | {"threshold": normal(D_SAE).abs(), "affine_skip_connection": normal(D_IN, D_IN)}
    stored = {name.replace("W_", "w_"): tensor for name, tensor in t.items()}
    save_file(stored, place(root, "transcoder/layer_3/params.safetensors"))
    return "transcoder/layer_3"


def llama_scope(root: Path) -> str:
    t = weights()
    settings = {"d_model": D_IN, "jump_relu_threshold": 0.8, "dataset_average_activation_norm": {"in": 3.0}}
    place(root, "l1/hyperparams.json").write_text(json.dumps(settings))
    save_file(layers(t) | {"decoder.bias": t["b_dec"]}, place(root, "l1/checkpoints/final.safetensors"))
    return "l1"


def dictionary_learning(root: Path) -> str:
    t = weights()
    torch.save({**layers(t), "bias": t["b_dec"]}, place(root, "a/ae.pt"))
    (root / "a/config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoder"}}))
    return "a"


def sparsify(root: Path) -> str:
    t = weights()
    stored = {name: tensor for name, tensor in layers(t).items() if name.startswith("encoder")}
    save_file({**stored, "W_dec": t["W_dec"], "b_dec": t["b_dec"]}, place(root, "layers.5/sae.safetensors"))
    (root / "layers.5/cfg.json").write_text(json.dumps({"d_in": D_IN, "k": K}))
    return "layers.5"


def goodfire(root: Path) -> str:
    t = weights()
    stored = layers(t, "encoder_linear", "decoder_linear") | {"decoder_linear.bias": t["b_dec"]}
    torch.save(stored, place(root, "sae.pth"))
    return "sae.pth"


def deepseek_r1(root: Path) -> str:
    t = weights()
    torch.save(layers(t) | {"decoder.bias": t["b_dec"]}, place(root, "sae.pt"))
    return "sae.pt"


def hook_z(root: Path) -> str:
    torch.save(weights(), place(root, "sae.pt"))
    return "sae.pt"


def openai(root: Path) -> str:
    t = weights()
    stored = {"encoder.weight": t["W_enc"].T, "decoder.weight": t["W_dec"].T, "latent_bias": t["b_enc"]}
    torch.save({**stored, "pre_bias": t["b_dec"], "activation": "ReLU"}, place(root, "layer_8.pt"))
    return "layer_8.pt"


def mwhanna(root: Path) -> str:
    t = weights()
    save_file({**t, "W_enc": t["W_enc"].T.contiguous()}, place(root, "layer_7.safetensors"))
    return "layer_7.safetensors"


def temporal(root: Path) -> str:
    made = {"D": normal(D_SAE, D_IN), "b": normal(D_IN)}
    for name, width in (("k_ctx", 6), ("q_target", 6), ("v_ctx", D_SAE), ("c_proj", D_SAE)):
        made |= {f"attn_layers.0.{name}.weight": normal(width, D_SAE), f"attn_layers.0.{name}.bias": normal(width)}
    save_file(made, place(root, "layer_1/latest_ckpt.safetensors"))
    settings = {"n_heads": 2, "n_attn_layers": 1, "bottleneck_factor": 2, "sae_diff_type": "topk", "kval_topk": K,
                "tied_weights": True, "scaling_factor": 0.3}  # fmt: skip
    conf = {"sae": settings, "llm": {"dimin": D_IN}, "data": {"dtype": "float32"}}
    (root / "layer_1/conf.yaml").write_text(yaml.safe_dump(conf))
    return "layer_1"


MAKERS = (gemma_scope, gemma_scope_2, llama_scope, dictionary_learning, sparsify, goodfire, deepseek_r1, hook_z, openai,
          mwhanna, temporal)  # fmt: skip


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_the_files_say_what_they_are(make: Maker, hub: Hub, tmp_path: Path) -> None:
    root = tmp_path / "published"
    path = make(root)
    expected = read(root, released(make.__name__, path))(X)
    assert torch.equal(SAE.load_from_disk(root / path)(X), expected)
    hub.add("user/repo", root)
    sae = SAE.from_pretrained("user/repo", path)
    assert torch.equal(sae(X), expected)
    hub.asked.clear()
    assert torch.equal(SAE.from_pretrained("user/repo", path, revision=hub.commit("user/repo"))(X), expected)
    assert not hub.asked


def test_a_file_of_no_format_is_explained_for_each(tmp_path: Path) -> None:
    torch.save({"other": normal(2)}, tmp_path / "sae.pt")
    with pytest.raises(PlatformError, match=r"cannot be read in any format(.|\n)*as goodfire: (.|\n)*as hook_z: "):
        SAE.load_from_disk(tmp_path / "sae.pt")


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="is not an SAE folder: it has no cfg.json"):
        SAE.load_from_disk(tmp_path)
