"""The TransformerLens source: the same activations as the transformers source, and runs that train on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from language_models import ModelFolder
from sae_platform import (
    ActivationSourceConfig,
    EvaluationConfig,
    HookedSAETransformer,
    PlatformError,
    RunConfig,
    SAEConfig,
    evaluate,
    train,
)
from sae_platform_transformer_lens import TransformerLensSourceConfig
from sae_platform_transformers import TransformersSourceConfig

TOKENS = torch.arange(24).reshape(2, 12) % 26 + 3


@pytest.fixture
def settings(model_folder: ModelFolder, text_file: Path) -> Any:
    def of(family: str, hook_name: str = "blocks.1.hook_resid_post", **more: Any) -> dict[str, Any]:
        model, dataset = str(model_folder(family)), str(text_file)
        return {"model": model, "dataset": dataset, "context_size": 12, "hook_name": hook_name, **more}

    return of


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("hook_name", ["blocks.1.hook_resid_pre", "blocks.2.hook_resid_post", "blocks.0.attn.hook_z"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_both_sources_give_the_same(settings: Any, family: str, hook_name: str, centred: bool) -> None:
    given = settings(family, hook_name, center_writing_weights=centred)
    ours, theirs = TransformersSourceConfig(**given).build(), TransformerLensSourceConfig(**given).build()
    assert (ours.d_in, ours.dtype) == (theirs.d_in, theirs.dtype)
    torch.testing.assert_close(ours.activations(TOKENS), theirs.activations(TOKENS), rtol=0, atol=1e-4)
    for a, b in zip(ours.harvest("train"), theirs.harvest("train"), strict=True):
        torch.testing.assert_close(a.x, b.x, rtol=0, atol=1e-4)
        assert torch.equal(a.tokens, b.tokens)
    torch.testing.assert_close(ours.logits(TOKENS), theirs.logits(TOKENS), rtol=0, atol=1e-4)
    turned = [source.logits(TOKENS, lambda x: x.flip(-1)) for source in (ours, theirs)]
    torch.testing.assert_close(turned[0], turned[1], rtol=0, atol=1e-4)
    assert (turned[0] - ours.logits(TOKENS)).abs().max() > 1e-3


def test_folded_norms_are_read_before_their_gain(settings: Any) -> None:
    folded = TransformerLensSourceConfig(**settings("gpt2", "blocks.1.mlp.hook_in", fold_ln=True)).build()
    normalized = TransformersSourceConfig(**settings("gpt2", "blocks.1.ln2.hook_normalized")).build()
    torch.testing.assert_close(folded.activations(TOKENS), normalized.activations(TOKENS), rtol=0, atol=1e-4)
    assert folded.metadata.processing == {"fold_ln": True}
    metadata = folded.metadata
    sae = SAEConfig(architecture="topk", d_in=8, d_sae=16, k=3, metadata=metadata).build().eval()
    with pytest.raises(PlatformError, match="with fold_ln, which is not given here"):
        evaluate(sae, TransformersSourceConfig(**settings("gpt2", "blocks.1.mlp.hook_in")).build())
    model = HookedSAETransformer.from_pretrained(settings("gpt2")["model"], fold_ln=True)
    _, cache = model.run_with_cache_with_saes(TOKENS, saes=[sae])
    found = cache["blocks.1.mlp.hook_in.hook_sae_input"]
    torch.testing.assert_close(found, folded.activations(TOKENS), rtol=0, atol=1e-4)
    with pytest.raises(PlatformError, match="with fold_ln, which is not given here"):
        HookedSAETransformer.from_pretrained(settings("gpt2")["model"]).add_sae(sae)


def test_a_run_on_it_is_trained_and_evaluated_again(settings: Any, tmp_path: Path) -> None:
    source = {"kind": "transformer_lens", **settings("gpt2", center_writing_weights=True)}
    run = train(
        RunConfig(
            source=source, sae={"architecture": "topk", "d_sae": 16, "k": 3},
            training={"tokens": 2_000, "batch_size": 200, "buffer": 800, "log_every": 2},
            evaluation={"every": 5, "tokens_while_training": 60, "tokens": 100, "preservation_tokens": 100},
        ),
        tmp_path,
    )  # fmt: skip
    assert [step for step, _ in run.metrics("ce_loss_score")["ce_loss_score"]] == [5, 10]
    first = run.evaluation() or {}
    again = evaluate(run.sae_path, settings=EvaluationConfig(tokens=100, preservation_tokens=100))
    assert again == pytest.approx(first, rel=1e-5)
    plain = TransformersSourceConfig(**settings("gpt2")).build()
    with pytest.raises(PlatformError, match="reads centred activations: set center_writing_weights = true"):
        evaluate(run.sae_path, plain)
    centred = TransformersSourceConfig(**settings("gpt2", center_writing_weights=True)).build()
    small = EvaluationConfig(tokens=100, preservation_tokens=100)
    assert evaluate(run.sae_path, centred, small)["fvu"] == pytest.approx(again["fvu"], rel=1e-3)


def test_what_is_missing_is_named(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PlatformError, match="no hook 'blocks.9.hook_resid_post'"):
        TransformerLensSourceConfig(**settings("gpt2", "blocks.9.hook_resid_post")).build()
    monkeypatch.setattr("sae_platform_transformer_lens.find_spec", lambda name: None)
    with pytest.raises(PlatformError, match=r"pip install 'sae-platform\[transformer-lens\]'"):
        ActivationSourceConfig.model_validate({"kind": "transformer_lens"}).build()
