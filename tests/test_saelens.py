"""The SAELens-shaped front: what settings become here, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sae_platform import (
    SAE,
    GatedTrainingSAEConfig,
    HookedSAETransformer,
    JumpReLUTrainingSAEConfig,
    LanguageModelSAERunnerConfig,
    LoggingConfig,
    PlatformError,
    SAEConfig,
    SAETrainingRunner,
    StandardTrainingSAEConfig,
    TopKTrainingSAEConfig,
)
from sae_platform_transformers.models import EMBEDDED
from saved import trained

TINY: dict[str, Any] = {"d_sae": 64, "training_tokens": 2_000, "train_batch_size_tokens": 512, "context_size": 32,
                        "n_batches_in_buffer": 4}  # fmt: skip


@pytest.mark.parametrize("architecture", ["standard", "gated", "topk", "jumprelu"])
def test_the_configuration(architecture: str) -> None:
    cfg: Any = trained(architecture).cfg
    assert cfg.architecture == cfg.architecture() == architecture
    assert cfg.activation_fn_str == ("topk" if architecture == "topk" else "relu")
    assert (cfg.model_name, cfg.hook_name, cfg.hook_layer) == ("gpt2", "blocks.7.hook_resid_pre", 7)
    assert (cfg.normalize_activations, cfg.dtype, cfg.device, cfg.prepend_bos) == ("none", "float32", "cpu", False)
    with pytest.raises(AttributeError, match="has no 'hook_nam'. Did you mean 'hook_name'"):
        _ = cfg.hook_nam


def test_the_scale_of_an_error_that_is_averaged() -> None:
    cfg = LanguageModelSAERunnerConfig(d_in=192, d_sae=64, l1_coefficient=8e-5, mse_reduction="mean")
    assert cfg.to_run_config().sae.model_dump()["l1_coefficient"] == pytest.approx(8e-5 * 192)


def test_the_tutorial_of_saelens_5_is_a_run() -> None:
    cfg = LanguageModelSAERunnerConfig(
        model_name="tiny-stories-1L-21M", hook_name="blocks.0.hook_mlp_out", hook_layer=0, d_in=1024,
        dataset_path="roneneldan/TinyStories", is_dataset_tokenized=False, streaming=True,
        mse_loss_normalization=None, expansion_factor=16, b_dec_init_method="mean", apply_b_dec_to_input=False,
        normalize_sae_decoder=False, scale_sparsity_penalty_by_decoder_norm=True, decoder_heuristic_init=True,
        decoder_heuristic_init_norm=0.1, init_encoder_as_decoder_transpose=True,
        normalize_activations="expected_average_only_in", lr=5e-5, adam_beta1=0.9, adam_beta2=0.999,
        lr_scheduler_name="constant", lr_warm_up_steps=0, lr_decay_steps=1000, l1_coefficient=5, l1_warm_up_steps=250,
        lp_norm=1.0, train_batch_size_tokens=4096, context_size=512, n_batches_in_buffer=64,
        training_tokens=4096 * 5000, store_batch_size_prompts=16, use_ghost_grads=False, feature_sampling_window=1000,
        dead_feature_window=1000, dead_feature_threshold=1e-4, log_to_wandb=False, wandb_project="sae_lens_tutorial",
        wandb_log_frequency=30, eval_every_n_wandb_logs=20, device="cpu", seed=42, n_checkpoints=0,
        checkpoint_path="checkpoints", dtype="float32", noise_scale=0.0, resume=False, verbose=True,
        act_store_device="with_model", autocast=False, compile_sae=False, hook_eval="NOT_IN_USE",
        model_class_name="HookedTransformer", model_from_pretrained_kwargs={"center_writing_weights": False},
    )  # fmt: skip
    run = cfg.to_run_config()
    assert run.sae.model_dump()["d_sae"] == 16 * 1024
    assert (run.evaluation.every, run.evaluation.tokens_while_training) == (600, 10 * 16 * 512)
    for name, value in (("b_dec_init_method", "zeros"), ("is_dataset_tokenized", True), ("output_path", "there")):
        with pytest.warns(UserWarning, match=f"{name} = {value!r} has no effect: "):
            LanguageModelSAERunnerConfig(**{name: value})


def test_the_tutorial_of_saelens_6_is_a_run() -> None:
    cfg = LanguageModelSAERunnerConfig(
        sae=StandardTrainingSAEConfig(
            d_in=1024, d_sae=16 * 1024, apply_b_dec_to_input=True, normalize_activations="expected_average_only_in",
            l1_coefficient=5, l1_warm_up_steps=250,
        ),
        model_name="tiny-stories-1L-21M", hook_name="blocks.0.hook_mlp_out", dataset_path="roneneldan/TinyStories",
        is_dataset_tokenized=False, streaming=True, lr=5e-5, adam_beta1=0.9, adam_beta2=0.999,
        lr_scheduler_name="constant", lr_warm_up_steps=0, lr_decay_steps=1000, train_batch_size_tokens=4096,
        context_size=256, n_batches_in_buffer=64, training_tokens=4096 * 5000, store_batch_size_prompts=16,
        logger=LoggingConfig(
            log_to_wandb=False, wandb_project="sae_lens_tutorial", wandb_log_frequency=30, eval_every_n_wandb_logs=20
        ),
        device="cpu", seed=42, n_checkpoints=0, checkpoint_path=None, dtype="torch.float32",
        resume_from_checkpoint=None, llm_device=None, use_chat_formatting=False, dataset_trust_remote_code=True,
    )  # fmt: skip
    run = cfg.to_run_config()
    assert (run.sae.model_dump()["l1_coefficient"], run.evaluation.every, run.training.dtype) == (5, 600, "float32")
    jumprelu = JumpReLUTrainingSAEConfig(d_sae=64).model_dump()
    assert (jumprelu["threshold_init"], jumprelu["bandwidth"], jumprelu["l0_coefficient"]) == (0.01, 0.05, 1.0)
    assert TopKTrainingSAEConfig(d_sae=640).model_dump()["decoder_init_norm"] == 0.1
    assert GatedTrainingSAEConfig(d_sae=64).model_dump()["l1_coefficient"] == 1.0
    with pytest.raises(PlatformError, match="sae.d_sea is not a setting of architecture 'topk'. Did you mean 'd_sae'"):
        TopKTrainingSAEConfig(d_sea=640)
    with pytest.raises(ValueError, match="Not a setting of TopKConfig. Did you mean 'd_sae'"):
        SAEConfig(architecture="topk", d_in=192, d_sea=640)


def test_centred_weights_are_centred_activations() -> None:
    cfg = LanguageModelSAERunnerConfig(d_sae=8, model_from_pretrained_kwargs={"center_writing_weights": True})
    assert cfg.to_run_config().source.model_dump()["center_writing_weights"]
    cfg = LanguageModelSAERunnerConfig(d_sae=8, model_from_pretrained_kwargs={"fold_ln": True})
    with pytest.raises(PlatformError, match="has fold_ln, and only center_writing_weights is here"):
        cfg.to_run_config()


def test_checkpoints_and_the_features_of_what_is_saved(tmp_path: Path) -> None:
    cfg = LanguageModelSAERunnerConfig(
        architecture="topk", activation_fn_kwargs={"k": 5}, checkpoint_path=str(tmp_path), n_checkpoints=2, **TINY
    )
    runner = SAETrainingRunner(cfg)
    sae = runner.run()
    run = runner.directory
    assert run is not None
    x = torch.randn(3, sae.d_in)
    assert torch.equal(sae.encode(x), SAE.load_from_disk(run.sae_path).encode(x))
    assert len(run.checkpoints()) == 2


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
    with pytest.raises(PlatformError, match="The device 'cuda' cannot be used"):
        HookedSAETransformer.from_pretrained(str(EMBEDDED["tinypy"]), device="cuda")


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
