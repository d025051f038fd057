"""Transcoders as their authors publish them, and sparsify's, OpenAI's and temporal SAEs, against their formulas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor

from released import D_IN, D_SAE, K, Tensors, X, decoded, holds, jumped, layers, normal, place, read, released, weights
from sae_platform import SAE, PlatformError, SAEConfig

D_OUT = 4


def transcoder() -> Tensors:
    return {**weights(), "W_dec": normal(D_SAE, D_OUT), "b_dec": normal(D_OUT)}


def lowered(t: Tensors) -> Tensors:
    """As Gemma Scope names tensors."""
    return {name.replace("W_", "w_"): tensor for name, tensor in t.items()}


def top(pre: Tensor, magnitudes: Tensor | None = None) -> Tensor:
    order = pre if magnitudes is None else magnitudes
    return pre * torch.zeros_like(pre).scatter(1, order.topk(K).indices, 1.0)


def test_gemma_scope(tmp_path: Path) -> None:
    t = transcoder() | {"threshold": normal(D_SAE).abs()}
    np.savez(place(tmp_path, "layer_3/params.npz"), **{name: each.numpy() for name, each in lowered(t).items()})
    sae = read(tmp_path, released("gemma_scope_transcoder", "layer_3", layer=3, site="transcoder"))
    features = jumped(X @ t["W_enc"] + t["b_enc"], t["threshold"])
    holds(sae, features, decoded(features, t))
    metadata = sae.cfg.metadata.model_dump()
    assert (metadata["hook_name"], metadata["hook_name_out"]) == (
        "blocks.3.ln2.hook_normalized", "blocks.3.hook_mlp_out"
    )  # fmt: skip


@pytest.mark.parametrize("skips", [True, False])
def test_gemma_scope_2(skips: bool, tmp_path: Path) -> None:
    t = transcoder() | {"threshold": normal(D_SAE).abs()}
    skip = normal(D_IN, D_OUT)
    stored = lowered(t) | ({"affine_skip_connection": skip} if skips else {})
    save_file(stored, place(tmp_path, "transcoder/layer_3/params.safetensors"))
    sae = read(tmp_path, released("gemma_scope_2", "transcoder/layer_3", layer=3, site="transcoder"))
    features = jumped(X @ t["W_enc"] + t["b_enc"], t["threshold"])
    holds(sae, features, decoded(features, t) + (X @ skip if skips else 0))
    assert sae.cfg.metadata.model_dump()["hook_name"] == "blocks.3.mlp.hook_in"


def test_gemma_scope_2_across_layers(tmp_path: Path) -> None:
    t = transcoder() | {"threshold": normal(D_SAE).abs()}
    several = normal(D_SAE, 3, D_OUT)
    save_file(lowered({**t, "W_dec": several}), place(tmp_path, "clt/layer_3.safetensors"))
    with pytest.warns(UserWarning, match="writes to several layers"):
        sae = read(tmp_path, released("gemma_scope_2", "clt/layer_3", layer=3, site="cross_layer_transcoder"))
    features = jumped(X @ t["W_enc"] + t["b_enc"], t["threshold"])
    holds(sae, features, features @ several.sum(1) + t["b_dec"])


def test_hanna(tmp_path: Path) -> None:
    t = transcoder()
    save_file({**t, "W_enc": t["W_enc"].T.contiguous()}, place(tmp_path, "layer_7.safetensors"))
    sae = read(tmp_path, released("mwhanna", "layer_7.safetensors", layer=7, site="transcoder"))
    features = (X @ t["W_enc"] + t["b_enc"]).relu()
    holds(sae, features, decoded(features, t))
    assert sae.cfg.hook_name == "blocks.7.mlp.hook_in"


def test_a_layer_of_a_cross_layer_transcoder(tmp_path: Path) -> None:
    t, several = transcoder(), normal(D_SAE, 3, D_OUT)
    hooks = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"model_name": "google/gemma-2-2b", **hooks}))
    save_file(
        {"W_enc_2": t["W_enc"].T.contiguous(), "b_enc_2": t["b_enc"], "b_dec_2": t["b_dec"]},
        tmp_path / "W_enc_2.safetensors",
    )
    save_file({"W_dec_2": several}, tmp_path / "W_dec_2.safetensors")
    with pytest.warns(UserWarning, match="writes to several layers"):
        sae = read(tmp_path, released("mntss", "2"))
    features = (X @ t["W_enc"] + t["b_enc"]).relu()
    holds(sae, features, features @ several.sum(1) + t["b_dec"])
    assert (sae.cfg.model_name, sae.cfg.hook_name) == ("google/gemma-2-2b", "blocks.2.hook_resid_mid")


def sparsify(root: Path, t: Tensors, **settings: Any) -> SAE:
    stored = {name: tensor for name, tensor in layers(t).items() if name.startswith("encoder")}
    stored |= {name: tensor for name, tensor in t.items() if name in ("W_dec", "b_dec", "W_skip")}
    save_file(stored, place(root, "layers.5.mlp/sae.safetensors"))
    (root / "layers.5.mlp/cfg.json").write_text(json.dumps({"d_in": D_IN, "k": K, **settings}))
    return read(root, released("sparsify", "layers.5.mlp"))


def test_sparsify(tmp_path: Path) -> None:
    t = weights()
    sae = sparsify(tmp_path, t, normalize_decoder=True)
    features = top(((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu())
    holds(sae, features, decoded(features, t))
    assert sae.cfg.hook_name == "blocks.5.hook_mlp_out"


def test_sparsify_with_signs(tmp_path: Path) -> None:
    t = weights()
    pre = (X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]
    features = top(pre, pre.abs())
    holds(sparsify(tmp_path, t, signed=True), features, decoded(features, t))


@pytest.mark.parametrize("skips", [True, False])
def test_sparsify_transcoder(skips: bool, tmp_path: Path) -> None:
    t = weights() | ({"W_skip": normal(D_IN, D_IN)} if skips else {})
    features = top((X @ t["W_enc"] + t["b_enc"]).relu())
    holds(
        sparsify(tmp_path, t, transcode=True, skip_connection=skips),
        features, decoded(features, t) + (X @ t["W_skip"].T if skips else 0),
    )  # fmt: skip


def test_another_activation_of_sparsify_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="fires by 'groupmax'"):
        sparsify(tmp_path, weights(), activation="groupmax")


@pytest.mark.parametrize("form", ["TopK", "ReLU"])
def test_openai(form: str, tmp_path: Path) -> None:
    t = weights()
    stored = {"encoder.weight": t["W_enc"].T, "decoder.weight": t["W_dec"].T, "latent_bias": t["b_enc"],
              "pre_bias": t["b_dec"], "stats_last_nonzero": torch.zeros(D_SAE), "activation": form}  # fmt: skip
    if form == "TopK":
        stored["activation_state_dict"] = {"k": K, "postact_fn": "ReLU"}
    torch.save(stored, tmp_path / "layer_8.pt")
    mean, std = X.mean(1, keepdim=True), X.std(1, keepdim=True)
    x = (X - mean) / (std + 1e-5) if form == "TopK" else X
    pre = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    features = top(pre) if form == "TopK" else pre
    y = decoded(features, t)
    holds(read(tmp_path, released("openai", "layer_8.pt")), features, y * std + mean if form == "TopK" else y)


def test_another_activation_of_openai_is_refused_by_name(tmp_path: Path) -> None:
    t = weights()
    stored = {"encoder.weight": t["W_enc"].T, "decoder.weight": t["W_dec"].T, "latent_bias": t["b_enc"],
              "pre_bias": t["b_dec"], "activation": "Tanh"}  # fmt: skip
    torch.save(stored, tmp_path / "layer_8.pt")
    with pytest.raises(PlatformError, match="fires by 'Tanh'"):
        read(tmp_path, released("openai", "layer_8.pt"))


@pytest.mark.parametrize("tied", [True, False])
def test_temporal(tied: bool, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"n_heads": 2, "n_attn_layers": 1, "bottleneck_factor": 2, "sae_diff_type": "topk",
                                "kval_topk": K, "tied_weights": tied}  # fmt: skip
    made = SAEConfig(
        architecture="temporal", d_in=D_IN, d_sae=D_SAE, normalize_activations="constant_scalar_rescale",
        activation_normalization_factor=0.3, **settings,
    ).build()  # fmt: skip
    stored = {name: t.detach().clone() for name, t in made.state_dict().items() if name.startswith("attn")}
    stored |= {"D": made.W_dec.detach().clone(), "b": made.b_dec.detach().clone()}
    stored |= {} if tied else {"E": made.W_enc.detach().contiguous()}
    save_file(stored, place(tmp_path, "layer_12/temporal/latest_ckpt.safetensors"))
    conf = {
        "sae": {**settings, "scaling_factor": 0.3, "exp_factor": 2},
        "llm": {"dimin": D_IN},
        "data": {"dtype": "float32"},
    }
    (tmp_path / "layer_12/temporal/conf.yaml").write_text(yaml.safe_dump(conf))
    sae = read(tmp_path, released("temporal", "layer_12/temporal", layer=12, site="resid_post"))
    holds(sae, made.encode(X), made(X))
    assert sae.cfg.hook_name == "blocks.12.hook_resid_post"
