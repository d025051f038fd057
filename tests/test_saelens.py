"""Code written for SAELens: every call of the API reference, with model, data and places substituted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from hub_server import Hub, serving
from sae_platform import (
    SAE,
    ActivationsStore,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAEConfig,
    LanguageModelSAERunnerConfig,
    LoggingConfig,
    PlatformError,
    SAEConfig,
    SAETrainingRunner,
    StandardTrainingSAEConfig,
    TopKTrainingSAEConfig,
    feature_url,
)
from sae_platform.registry import VARIABLE
from saved import trained

TINY: dict[str, Any] = {"d_sae": 64, "training_tokens": 2_000, "train_batch_size_tokens": 512, "context_size": 32,
                        "n_batches_in_buffer": 4}  # fmt: skip
EXAMPLE: dict[str, Any] = {
    "hook_layer": 1, "d_in": 192, "architecture": "standard", "d_sae": 192 * 8, "activation_fn": "relu", "lr": 4e-4,
    "l1_coefficient": 8e-5, "lp_norm": 1.0, "lr_scheduler_name": "constant", "lr_warm_up_steps": 500,
    "l1_warm_up_steps": 1000, "use_ghost_grads": True, "feature_sampling_window": 1000, "dead_feature_window": 5000,
    "dead_feature_threshold": 1e-8, "streaming": True, "context_size": 128, "train_batch_size_tokens": 4096,
    "store_batch_size_prompts": 16, "n_batches_in_buffer": 64, "training_tokens": 100_000_000, "log_to_wandb": False,
    "wandb_project": "sae-training", "wandb_log_frequency": 100, "checkpoint_path": "checkpoints", "n_checkpoints": 5,
    "device": "cpu", "dtype": "float32",
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    trained("standard").save_model(tmp_path / "sae", sparsity=torch.linspace(-3, 0, 6))
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / "a-release.toml").write_text(
        'model = "gpt2"\nrepo_id = "username/repo-name"\n[[saes]]\nid = "blocks.8.hook_resid_pre"\n'
        'path = "path/to/sae"\n'
        'neuronpedia_id = "gpt2-small/8-res-jb"\n'
    )
    with serving(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv(VARIABLE, str(tmp_path / "registry"))
        hub.add("username/repo-name", tmp_path / "sae", "path/to/sae")
        yield hub


@pytest.mark.parametrize(
    ("release", "sae_id"), [("a-release", "blocks.8.hook_resid_pre"), ("username/repo-name", "path/to/sae")]
)
def test_loading(release: str, sae_id: str, hub: Hub) -> None:
    sae, cfg_dict, sparsity = SAE.from_pretrained(release=release, sae_id=sae_id, device="cpu")
    assert cfg_dict["hook_name"] == sae.cfg.hook_name
    assert sparsity.shape == (sae.cfg.d_sae,)


def test_the_class(tmp_path: Path) -> None:
    trained("standard").save_model(tmp_path)
    sae: Any = SAE.load_from_disk(str(tmp_path), device="cpu")
    d_in, d_sae = sae.cfg.d_in, sae.cfg.d_sae
    assert [tuple(t.shape) for t in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec)] == [
        (d_in, d_sae), (d_sae, d_in), (d_sae,), (d_in,)
    ]  # fmt: skip
    activations = torch.randn(2, 5, d_in)
    features = sae.encode(activations)
    assert features.shape == (2, 5, d_sae)
    assert sae.decode(features).shape == activations.shape
    assert sae(activations).shape == activations.shape
    sae.save_model(str(tmp_path / "again"))


@pytest.mark.parametrize("architecture", ["standard", "gated", "topk", "jumprelu"])
def test_the_configuration(architecture: str) -> None:
    cfg: Any = trained(architecture).cfg
    assert cfg.architecture == cfg.architecture() == architecture
    assert cfg.activation_fn_str == ("topk" if architecture == "topk" else "relu")
    assert (cfg.model_name, cfg.hook_name, cfg.hook_layer) == ("gpt2", "blocks.7.hook_resid_pre", 7)
    assert (cfg.normalize_activations, cfg.dtype, cfg.device, cfg.prepend_bos) == ("none", "float32", "cpu", False)
    with pytest.raises(AttributeError, match="has no 'hook_nam'. Did you mean 'hook_name'"):
        _ = cfg.hook_nam


def test_the_example_is_a_run() -> None:
    with pytest.warns(UserWarning, match=r"the same sparsity needs 8e-05 x d_in = 0.0154"):
        run = LanguageModelSAERunnerConfig(**EXAMPLE).to_run_config()
    assert run.training.buffer == 64 * 16 * 128
    assert run.training.dead_feature_window == 5000 * 4096
    assert run.training.checkpoint_every == -(-100_000_000 // 4096) // 5
    assert run.sae.model_dump()["use_ghost_grads"]
    scaled = LanguageModelSAERunnerConfig(**{**EXAMPLE, "mse_reduction": "mean"}).to_run_config()
    assert scaled.sae.model_dump()["l1_coefficient"] == pytest.approx(8e-5 * 192)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"architecture": "standard", "activation_fn": "relu", "l1_coefficient": 0.3}, {"l1_coefficient": 0.3}),
        ({"architecture": "gated"}, {}),
        ({"architecture": "topk", "activation_fn": "topk", "activation_fn_kwargs": {"k": 50}}, {"k": 50}),
        ({"architecture": "jumprelu", "l1_coefficient": 0.02}, {"l0_coefficient": 0.02}),
        ({"d_in": 192, "expansion_factor": 2}, {"d_sae": 384}),
        ({"sae": TopKTrainingSAEConfig(d_in=192, d_sae=64, k=5)}, {"architecture": "topk", "k": 5, "d_sae": 64}),
        ({"sae": JumpReLUTrainingSAEConfig(d_sae=64, jumprelu_bandwidth=0.2)}, {"bandwidth": 0.2}),
        ({"sae": StandardTrainingSAEConfig(d_sae=64)}, {"architecture": "standard"}),
        (
            {"sae": GatedTrainingSAEConfig(d_sae=64), "logger": LoggingConfig(log_to_wandb=False)},
            {"architecture": "gated"},
        ),
    ],
)  # fmt: skip
def test_architectures(settings: dict[str, Any], expected: dict[str, Any]) -> None:
    sae = LanguageModelSAERunnerConfig(**settings).to_run_config().sae
    assert {name: sae.model_dump()[name] for name in expected} == expected


@pytest.mark.parametrize("architecture", ["standard", "topk"])
def test_training(architecture: str, tmp_path: Path) -> None:
    cfg = LanguageModelSAERunnerConfig(
        architecture=architecture, checkpoint_path=str(tmp_path), n_checkpoints=2, run_name="first",
        activation_fn_kwargs={"k": 5} if architecture == "topk" else None, wandb_log_frequency=1, **TINY,
    )  # fmt: skip
    runner = SAETrainingRunner(cfg)
    sae = runner.run()
    run = runner.directory
    assert run is not None
    x = torch.randn(3, sae.d_in)
    assert torch.equal(sae.encode(x), SAE.load_from_disk(run.sae_path).encode(x))
    assert len(run.checkpoints()) == 2
    wanted = {"l0", "ce_loss_score", "mse_loss", "dead_features"} | (
        {"l1_loss"} if architecture == "standard" else set()
    )
    assert wanted <= run.metrics().keys() | (run.evaluation() or {}).keys()


def test_the_store() -> None:
    from transformers import AutoModelForCausalLM

    from sae_platform_transformers.models import EMBEDDED

    model = AutoModelForCausalLM.from_pretrained(EMBEDDED["tinypy"])
    cfg = LanguageModelSAERunnerConfig(architecture="topk", activation_fn_kwargs={"k": 5}, **TINY)
    sae = SAEConfig(
        architecture="topk", d_in=192, d_sae=64, k=5,
        metadata={"hook_name": "blocks.1.hook_resid_post", "dataset_path": "stdlib", "context_size": 32},
    ).build()  # fmt: skip
    for store in (
        ActivationsStore.from_config(model, cfg),
        ActivationsStore.from_sae(
            model=model, sae=sae, store_batch_size_prompts=8, train_batch_size_tokens=512, n_batches_in_buffer=4,
            device="cpu",
        ),
    ):  # fmt: skip
        tokens = store.get_batch_tokens()
        assert tokens.shape == (store.store_batch_size_prompts, 32)
        assert tokens.dtype == torch.int64
        assert store.get_batch_tokens(3).shape == (3, 32)
        assert store.get_activations(tokens).shape == (*tokens.shape, 192)
        assert store.next_batch().shape == next(iter(store)).shape == (512, 192)
    with pytest.raises(PlatformError, match="device is 'cuda', but the model is on cpu"):
        ActivationsStore.from_sae(model, sae, device="cuda")


def test_neuronpedia(hub: Hub) -> None:
    assert feature_url("gpt2-small/8-res-jb", 1234) == "https://www.neuronpedia.org/gpt2-small/8-res-jb/1234"
    sae = trained("standard")
    sae.describe(neuronpedia_id="gpt2-small/8-res-jb")
    with pytest.raises(PlatformError, match="no feature 6; they are 0 to 5"):
        feature_url(sae, 6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"l1_coeficient": 1.0}, "l1_coeficient is not a setting of a run. Did you mean 'l1_coefficient'"),
        ({"noise_scale": 0.1}, "noise_scale = 0.1 is a setting of SAELens that is not here: no noise is added"),
        ({"d_sae": 64, "expansion_factor": 2}, "say the same thing"),
        ({"expansion_factor": 2}, "give d_in too"),
        ({"hook_layer": 3}, "hook_layer is 3, but hook_name 'blocks.1.hook_resid_post' is of layer 1"),
        ({"lr_scheduler_name": "cosineannealingwarmrestarts"}, "Known: constant, cosineannealing"),
        ({"activation_fn": "topk"}, 'choose architecture="topk"'),
        ({"sae": TopKTrainingSAEConfig(d_sae=64, k=5), "d_sae": 64}, "d_sae stands beside sae="),
        ({"d_sae": -1}, "d_sae: Input should be greater than 0, not -1"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PlatformError, match=message):
        LanguageModelSAERunnerConfig(**settings)


def test_cuda_without_cuda_is_an_error(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is CUDA")
    cfg = LanguageModelSAERunnerConfig(device="cuda", checkpoint_path=str(tmp_path), **TINY)
    with pytest.raises(PlatformError, match="cuda"):
        SAETrainingRunner(cfg).run()
    trained("standard").save_model(tmp_path / "sae")
    with pytest.raises(PlatformError, match="cannot be put on the device 'cuda'"):
        SAE.load_from_disk(tmp_path / "sae", device="cuda")


@pytest.mark.parametrize("architecture", ["standard", "gated", "topk", "jumprelu"])
def test_decoder_norms_fold_into_features(architecture: str) -> None:
    sae: Any = trained(architecture)
    x = torch.randn(7, sae.d_in)
    before, features = sae(x), sae.encode(x)
    norms = sae.W_dec.norm(dim=-1) if architecture != "topk" else torch.ones(sae.d_sae)
    sae.fold_W_dec_norm()
    torch.testing.assert_close(sae.W_dec.norm(dim=-1), torch.ones(sae.d_sae))
    torch.testing.assert_close(sae(x), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(sae.encode(x), features * norms, rtol=1e-4, atol=1e-5)


def test_attention_heads_are_read_as_they_come() -> None:
    sae = SAEConfig(
        architecture="topk", d_in=6, d_sae=9, k=2, metadata={"hook_name": "blocks.0.attn.hook_z"}
    ).build()  # fmt: skip
    heads = torch.randn(2, 4, 3, 2)
    assert sae.encode(heads).shape == (2, 4, 9)
    assert sae(heads).shape == heads.shape
    torch.testing.assert_close(sae(heads).flatten(-2), sae(heads.flatten(-2)))


def test_with_the_error_term_nothing_is_lost() -> None:
    sae = trained("standard")
    x = torch.randn(5, sae.d_in)
    sae.use_error_term = True
    torch.testing.assert_close(sae(x), x)
