"""The SAELens API as people write it: one test for each piece of code in its reference, with only the import, the
model, the dataset, the device, the repository and paths replaced."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hub_server import Hub
from sae_platform import (
    SAE,
    ActivationsStore,
    LanguageModelSAERunnerConfig,
    SAEConfig,
    SAETrainingRunner,
    feature_url,
    upload_saes_to_huggingface,
)
from sae_platform_transformers.models import EMBEDDED
from saved import trained
from wandb_records import records

TINYPY = str(EMBEDDED["tinypy"])
WIDTH = 192
HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def sae() -> SAE:
    """An SAE of tinypy."""
    metadata = {"hook_name": HOOK, "model_name": "tinypy", "dataset_path": "stdlib", "context_size": 32}
    return SAEConfig(architecture="topk", d_in=WIDTH, d_sae=64, k=5, metadata=metadata).build().eval()


def test_loading_pretrained_saes(hub: Hub, tmp_path: Path) -> None:
    trained("standard").save_model(tmp_path / "sae", sparsity=torch.linspace(-3, 0, 6))
    hub.add("jbloom/GPT2-Small-SAEs-Reformatted", tmp_path / "sae", "blocks.8.hook_resid_pre")
    hub.add("username/repo-name", tmp_path / "sae", "path/to/sae")

    sae, cfg_dict, sparsity = SAE.from_pretrained(
        release="gpt2-small-res-jb",
        sae_id="blocks.8.hook_resid_pre",
        device="cpu",
    )
    assert (sae.cfg.d_in, cfg_dict["d_sae"], sparsity.shape) == (4, 6, (6,))
    assert sae.cfg.metadata.processing == {"center_writing_weights": True}
    assert (sae.device, sae.dtype) == (torch.device("cpu"), torch.float32)
    _, again, _ = SAE.from_pretrained_with_cfg_and_sparsity("gpt2-small-res-jb", "blocks.8.hook_resid_pre")
    assert again == cfg_dict

    sae, cfg_dict, sparsity = SAE.from_pretrained(
        release="username/repo-name",
        sae_id="path/to/sae",
        device="cpu",
    )
    assert (sae.cfg.d_in, cfg_dict["d_sae"], sparsity.shape) == (4, 6, (6,))

    sae = SAE.load_from_disk(str(tmp_path / "sae"), device="cpu")
    assert sae.cfg.d_sae == 6


def test_attributes_and_core_methods(sae: Any, tmp_path: Path) -> None:
    shapes = {name: tuple(getattr(sae, name).shape) for name in ("W_enc", "W_dec", "b_enc", "b_dec")}
    assert shapes == {"W_enc": (WIDTH, 64), "W_dec": (64, WIDTH), "b_enc": (64,), "b_dec": (WIDTH,)}
    activations = torch.randn(2, 5, WIDTH)

    features = sae.encode(activations)
    assert features.shape == (2, 5, 64)

    reconstructed = sae.decode(features)
    assert reconstructed.shape == (2, 5, WIDTH)

    reconstructed = sae(activations)
    assert reconstructed.shape == (2, 5, WIDTH)

    sae.save_model(str(tmp_path / "to/save"))
    assert torch.equal(SAE.load_from_disk(tmp_path / "to/save")(activations), reconstructed)


def test_accessing_config(sae: Any, capsys: pytest.CaptureFixture[str]) -> None:
    print(sae.cfg.d_in)
    print(sae.cfg.d_sae)
    print(sae.cfg.hook_name)
    assert capsys.readouterr().out.split() == ["192", "64", HOOK]
    cfg = sae.cfg
    found = (cfg.architecture, cfg.activation_fn_str, cfg.model_name, cfg.normalize_activations, cfg.dtype, cfg.device)
    assert found == ("topk", "topk", "tinypy", "none", "float32", "cpu")


def test_example_configuration() -> None:
    cfg = LanguageModelSAERunnerConfig(
        # Model and hook
        model_name="gpt2-small",
        hook_name="blocks.8.hook_resid_pre",
        hook_layer=8,
        d_in=768,
        # SAE architecture
        architecture="standard",
        d_sae=768 * 8,
        activation_fn="relu",
        # Training hyperparameters
        lr=4e-4,
        l1_coefficient=8e-5,
        lp_norm=1.0,
        lr_scheduler_name="constant",
        lr_warm_up_steps=500,
        # Sparsity control
        l1_warm_up_steps=1000,
        use_ghost_grads=True,
        feature_sampling_window=1000,
        dead_feature_window=5000,
        dead_feature_threshold=1e-8,
        # Data
        dataset_path="monology/pile-uncopyrighted",
        streaming=True,
        context_size=128,
        # Batch sizes
        train_batch_size_tokens=4096,
        store_batch_size_prompts=16,
        n_batches_in_buffer=64,
        # Training duration
        training_tokens=100_000_000,
        # Logging
        log_to_wandb=True,
        wandb_project="sae-training",
        wandb_log_frequency=100,
        # Checkpointing
        checkpoint_path="checkpoints",
        n_checkpoints=5,
        # Hardware
        device="cuda",
        dtype="float32",
    )
    with pytest.warns(UserWarning, match=r"the same sparsity needs 8e-05 x d_in = 0.0614"):
        run = cfg.to_run_config()
    source, training, sae = run.source.model_dump(), run.training, run.sae.model_dump()
    assert (source["model"], source["hook_name"]) == ("gpt2-small", "blocks.8.hook_resid_pre")
    assert (source["dataset"], source["streaming"]) == ("monology/pile-uncopyrighted", True)
    assert (source["context_size"], source["batch_size"]) == (128, 16)
    assert (sae["architecture"], sae["d_in"], sae["d_sae"]) == ("standard", 768, 6144)
    assert (sae["l1_coefficient"], sae["lp_norm"], sae["l1_warm_up_steps"]) == (8e-5, 1.0, 1000)
    assert sae["use_ghost_grads"]
    assert (training.lr, training.lr_schedule, training.lr_warm_up_steps) == (4e-4, "constant", 500)
    assert (training.batch_size, training.buffer, training.tokens) == (4096, 64 * 16 * 128, 100_000_000)
    assert (training.dead_feature_window, training.feature_sampling_window) == (5000 * 4096, 1000 * 4096)
    assert (training.dead_feature_threshold, training.device, training.dtype) == (1e-8, "cuda", "float32")
    assert (training.log_every, training.checkpoint_every, training.keep_checkpoints) == (100, 24_415 // 5, 5)
    assert [logger.model_dump()["project"] for logger in run.loggers] == ["sae-training"]


@pytest.mark.filterwarnings("ignore:l1_coefficient")
def test_basic_training_and_its_metrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # it keeps the environment of its first use
    cfg = LanguageModelSAERunnerConfig(
        model_name="tinypy", dataset_path="stdlib", d_sae=64, training_tokens=2_500, train_batch_size_tokens=500,
        context_size=32, n_batches_in_buffer=1, checkpoint_path=str(tmp_path), log_to_wandb=True,
        wandb_log_frequency=1, eval_every_n_wandb_logs=2, n_eval_batches=1, eval_batch_size_prompts=4,
    )  # fmt: skip
    runner = SAETrainingRunner(cfg)
    sae = runner.run()
    run = runner.directory
    assert run is not None
    x = torch.randn(3, sae.d_in)
    assert torch.equal(sae.encode(x), SAE.load_from_disk(run.sae_path).encode(x))
    names = ("l0", "ce_loss_score", "mse_loss", "l1_loss", "dead_features")
    found = run.metrics()
    assert {name: len(found[name]) for name in names} == dict.fromkeys(names, 5) | {"ce_loss_score": 3}
    written = "\n".join(records(run.path))
    for path in ("metrics/l0", "model_performance_preservation/ce_loss_score", "losses/mse_loss", "losses/l1_loss",
                 "sparsity/dead_features"):  # fmt: skip
        assert path in written


def test_the_activations_store(sae: SAE) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(TINYPY)
    store = ActivationsStore.from_sae(
        model=model,
        sae=sae,
        store_batch_size_prompts=8,
        train_batch_size_tokens=512,
        n_batches_in_buffer=4,
        device="cpu",
    )
    activations = store.get_batch_tokens()  # tokens, whatever the reference calls them
    assert (activations.shape, activations.dtype) == ((8, 32), torch.int64)
    assert store.get_activations(activations).shape == (8, 32, WIDTH)
    assert store.next_batch().shape == next(iter(store)).shape == (512, WIDTH)


def test_the_hooked_transformer(hub: Hub, sae: SAE, tmp_path: Path) -> None:
    hub.add("openai-community/gpt2", EMBEDDED["tinypy"])
    sae.save_model(tmp_path / "sae")
    code = f"""
import torch
from sae_platform import SAE, HookedSAETransformer
sae, tokens = SAE.load_from_disk({str(tmp_path / "sae")!r}), torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])

model = HookedSAETransformer.from_pretrained("gpt2-small")
model.add_sae(sae)
output = model.run_with_saes(tokens, saes=[sae])
assert output.shape == (2, 4, model.cfg.d_vocab)
output, cache = model.run_with_cache_with_saes(tokens, saes=[sae])
assert output.shape == (2, 4, model.cfg.d_vocab)
assert cache["{HOOK}.hook_sae_acts_post"].shape == (2, 4, 64)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert any("openai-community/gpt2" in path for path in hub.asked)


@pytest.mark.filterwarnings("ignore:l1_coefficient")
def test_architectures() -> None:
    cfg = LanguageModelSAERunnerConfig(
        architecture="standard",
        activation_fn="relu",
        l1_coefficient=8e-5,
    )
    assert cfg.to_run_config().sae.model_dump()["l1_coefficient"] == 8e-5
    cfg = LanguageModelSAERunnerConfig(
        architecture="gated",
    )
    assert cfg.to_run_config().sae.architecture == "gated"
    cfg = LanguageModelSAERunnerConfig(
        architecture="topk",
        activation_fn="topk",
        activation_fn_kwargs={"k": 50},
    )
    assert cfg.to_run_config().sae.model_dump()["k"] == 50
    cfg = LanguageModelSAERunnerConfig(
        architecture="jumprelu",
    )
    assert cfg.to_run_config().sae.architecture == "jumprelu"


def test_upload_to_hugging_face(hub: Hub, sae: SAE) -> None:
    upload_saes_to_huggingface(
        saes=[sae],
        repo_id="username/my-saes",
        token="hf_token",
    )
    again = SAE.from_pretrained("username/my-saes", HOOK)
    assert torch.equal(again.encode(torch.ones(1, WIDTH)), sae.encode(torch.ones(1, WIDTH)))


def test_neuronpedia_integration() -> None:
    assert feature_url("gpt2-small/8-res-jb", 1234) == "https://www.neuronpedia.org/gpt2-small/8-res-jb/1234"
