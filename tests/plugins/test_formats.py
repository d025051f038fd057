"""Weights as other projects publish them: built from the description of each format, and held to its formula."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from released import D_IN, D_SAE, K, Tensors, X, decoded, holds, jumped, layers, normal, place, read, released, weights
from sae_platform import SAE, PlatformError


@pytest.mark.parametrize("form", ["gemma_scope", "gemma_scope_2"])
@pytest.mark.parametrize("site", ["resid_post", "embedding"])
def test_gemma_scope(form: str, site: str, tmp_path: Path) -> None:
    t = weights() | {"threshold": normal(D_SAE)}  # some below zero
    stored = {name.replace("W_", "w_"): tensor for name, tensor in t.items()}
    if form == "gemma_scope":
        np.savez(place(tmp_path, "layer_3/params.npz"), **{name: tensor.numpy() for name, tensor in stored.items()})
    else:
        save_file(stored, place(tmp_path, "layer_3/params.safetensors"))
    sae = read(tmp_path, released(form, "layer_3", layer=3, site=site))
    c = D_IN**0.5 if site == "embedding" else 1.0
    features = jumped(X / c @ t["W_enc"] + t["b_enc"], t["threshold"])
    holds(sae, features, features @ t["W_dec"] * c + t["b_dec"])
    assert sae.cfg.architecture == "jumprelu"
    assert sae.cfg.hook_name == ("blocks.3.hook_resid_post" if site == "resid_post" else None)


def test_llama_scope(tmp_path: Path) -> None:
    t, c = weights(), 1.7
    settings = {"d_model": D_IN, "jump_relu_threshold": 0.8, "dataset_average_activation_norm": {"in": 3.0}}
    place(tmp_path, "l1/hyperparams.json").write_text(json.dumps(settings))
    save_file(layers(t) | {"decoder.bias": t["b_dec"]}, place(tmp_path, "l1/checkpoints/final.safetensors"))
    sae = read(tmp_path, released("llama_scope", "l1", norm_scaling_factor=c))
    features = jumped(c * X @ t["W_enc"] + t["b_enc"], 0.8 * D_IN**0.5 / 3.0)
    holds(sae, features, decoded(features, t) / c)


def test_llama_scope_of_the_r1_distill(tmp_path: Path) -> None:
    t, c, threshold = weights(), 0.6, normal(D_SAE).exp()
    stored = layers(t) | {"decoder.bias": t["b_dec"], "log_jumprelu_threshold": threshold.log()}
    save_file(stored, place(tmp_path, "L1R/sae_weights.safetensors"))
    sae = read(tmp_path, released("llama_scope_r1", "L1R", norm_scaling_factor=c))
    features = jumped(c * X @ t["W_enc"] + t["b_enc"], threshold)
    holds(sae, features, decoded(features, t) / c)
    with pytest.raises(PlatformError, match="needs norm_scaling_factor"):
        read(tmp_path, released("llama_scope_r1", "L1R"))


def dictionary(root: Path, name: str, stored: Tensors) -> SAE:
    trainer = {"dict_class": name, "k": K, "layer": 3}
    place(root, "trainer_0/config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    torch.save(stored, root / "trainer_0/ae.pt")
    return read(root, released("dictionary_learning", "trainer_0", layer=3, site="resid_post"))


def test_dictionary_learning_standard(tmp_path: Path) -> None:
    t = weights()
    features = ((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    holds(dictionary(tmp_path, "AutoEncoder", layers(t) | {"bias": t["b_dec"]}), features, decoded(features, t))


def test_dictionary_learning_standard_without_b_dec_in_the_encoder(tmp_path: Path) -> None:
    t = weights()
    features = (X @ t["W_enc"] + t["b_enc"]).relu()
    sae = dictionary(tmp_path, "AutoEncoderNew", layers(t) | {"decoder.bias": t["b_dec"]})
    holds(sae, features, decoded(features, t))


def test_dictionary_learning_gated(tmp_path: Path) -> None:
    t, r_mag, b_gate, b_mag = weights(), normal(D_SAE), normal(D_SAE), normal(D_SAE)
    stored = {name: tensor for name, tensor in layers(t).items() if name != "encoder.bias"}
    stored |= {"decoder_bias": t["b_dec"], "r_mag": r_mag, "gate_bias": b_gate, "mag_bias": b_mag}
    pre = (X - t["b_dec"]) @ t["W_enc"]
    features = (pre * r_mag.exp() + b_mag).relu() * (pre + b_gate > 0)
    holds(dictionary(tmp_path, "GatedAutoEncoder", stored), features, decoded(features, t))


def test_dictionary_learning_topk(tmp_path: Path) -> None:
    t = weights()
    stored = layers(t) | {"b_dec": t["b_dec"], "threshold": torch.tensor(0.2), "k": torch.tensor(K)}
    top = ((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu().topk(K)
    features = torch.zeros(len(X), D_SAE).scatter(1, top.indices, top.values)
    holds(dictionary(tmp_path, "AutoEncoderTopK", stored), features, decoded(features, t))


@pytest.mark.parametrize("threshold", [0.4, -1.0])
def test_dictionary_learning_batch_topk(threshold: float, tmp_path: Path) -> None:
    t = weights()
    stored = layers(t) | {"b_dec": t["b_dec"], "threshold": torch.tensor(threshold), "k": torch.tensor(K)}
    features = jumped((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"], threshold)
    holds(dictionary(tmp_path, "BatchTopKSAE", stored), features, decoded(features, t))


@pytest.mark.parametrize("name", ["MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder"])
def test_dictionary_learning_jumprelu(name: str, tmp_path: Path) -> None:
    t, threshold = weights(), normal(D_SAE).abs()
    x = X if name == "JumpReluAutoEncoder" else X - t["b_dec"]
    features = jumped(x @ t["W_enc"] + t["b_enc"], threshold)
    holds(dictionary(tmp_path, name, {**t, "threshold": threshold}), features, decoded(features, t))


def test_another_dictionary_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="holds a 'CrossCoder'.*Known: AutoEncoder"):
        dictionary(tmp_path, "CrossCoder", weights())


def test_qwen_scope(tmp_path: Path) -> None:
    t = weights()
    torch.save({**t, "W_enc": t["W_enc"].T, "W_dec": t["W_dec"].T}, place(tmp_path, "layer0.sae.pt"))
    sae = read(tmp_path, released("qwen_scope", "layer0.sae.pt", repo_id="Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_3"))
    top = (X @ t["W_enc"] + t["b_enc"]).topk(3)
    features = torch.zeros(len(X), D_SAE).scatter(1, top.indices, top.values.relu())
    holds(sae, features, decoded(features, t))


@pytest.mark.parametrize(("form", "names"), [("goodfire", ("encoder_linear", "decoder_linear")), ("deepseek_r1", ())])
def test_linear_layers(form: str, names: tuple[str, ...], tmp_path: Path) -> None:
    t = weights()
    stored = layers(t, *names) | {f"{names[1] if names else 'decoder'}.bias": t["b_dec"]}
    torch.save(stored, place(tmp_path, "sae.pt"))
    features = (X @ t["W_enc"] + t["b_enc"]).relu()
    holds(read(tmp_path, released(form, "sae.pt")), features, decoded(features, t))


def test_hook_z(tmp_path: Path) -> None:
    t = weights()
    torch.save(t, place(tmp_path, "sae.pt"))
    sae = read(tmp_path, released("hook_z", "sae.pt", layer=4, site="z"))
    features = ((X - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
    holds(sae, features, decoded(features, t))
    assert sae.cfg.hook_name == "blocks.4.attn.hook_z"


# what is wrong with files


class Evil:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return Path.write_text, (Path("canary"), "run")  # type: ignore[return-value]


def test_a_file_that_would_run_something_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"W_enc": Evil()}, tmp_path / "sae.pt")
    np.savez(place(tmp_path, "layer_1/params.npz"), w_enc=np.array([Evil()], dtype=object))
    with pytest.raises(PlatformError, match="more than tensors"):
        read(tmp_path, released("hook_z", "sae.pt"))
    with pytest.raises(PlatformError, match="cannot be read"):
        read(tmp_path, released("gemma_scope", "layer_1"))
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("cut", [0, 10, 200])
def test_a_cut_file_is_named(cut: int, tmp_path: Path) -> None:
    torch.save(weights(), tmp_path / "sae.pt")
    (tmp_path / "sae.pt").write_bytes((tmp_path / "sae.pt").read_bytes()[:cut])
    with pytest.raises(PlatformError, match="sae.pt"):
        read(tmp_path, released("hook_z", "sae.pt"))


def test_missing_tensors_are_named(tmp_path: Path) -> None:
    torch.save({"W_enc": normal(D_IN, D_SAE)}, tmp_path / "sae.pt")
    with pytest.raises(PlatformError, match="has no W_dec, b_dec, b_enc. It has W_enc"):
        read(tmp_path, released("hook_z", "sae.pt"))


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    t = weights()
    t["W_dec"][2, 1] = torch.nan
    torch.save(t, tmp_path / "sae.pt")
    with pytest.raises(PlatformError, match="W_dec holds NaN or infinity"):
        read(tmp_path, released("hook_z", "sae.pt"))
