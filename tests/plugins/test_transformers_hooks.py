from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from sae_platform import PlatformError
from sae_platform_transformers import TransformersSourceConfig

TOKENS = torch.arange(24).reshape(2, 12) % 26 + 3
FAMILIES = ["gpt2", "llama", "gpt_neox", "gemma2", "bert"]
CAUSAL = FAMILIES[:-1]


@pytest.fixture(scope="module")
def source(model_folder: Any, text_file: Path) -> Any:
    @cache
    def build(family: str = "gpt2", hook_name: str = "resid_post.1") -> Any:
        model, dataset = str(model_folder(family)), str(text_file)
        return TransformersSourceConfig(model=model, dataset=dataset, context_size=12, hook_name=hook_name).build()

    return build


@pytest.fixture(scope="module")
def activations(source: Any) -> Any:
    return lambda family, hook_name: source(family, hook_name).activations(TOKENS)


def hidden_states(source: Any) -> tuple[torch.Tensor, ...]:
    with torch.no_grad():
        states: tuple[torch.Tensor, ...] = source.model(TOKENS, output_hidden_states=True).hidden_states
    return states


@pytest.mark.parametrize("family", FAMILIES)
def test_the_residual_stream_is_what_the_model_calls_its_hidden_states(source: Any, family: str) -> None:
    for layer in range(3):
        before = source(family, f"blocks.{layer}.hook_resid_pre")
        states = hidden_states(before)
        assert torch.equal(before.activations(TOKENS), states[layer])
        if layer < 2:  # transformers gives the last one after the final norm
            assert torch.equal(source(family, f"blocks.{layer}.hook_resid_post").activations(TOKENS), states[layer + 1])


@pytest.mark.parametrize(("family", "norm"), [("gpt2", "ln_f"), ("llama", "norm"), ("gpt_neox", "final_layer_norm")])
def test_the_last_residual_is_what_the_final_norm_reads(source: Any, family: str, norm: str) -> None:
    last = source(family, "resid_post.2")
    normed = last.model.base_model.get_submodule(norm)(last.activations(TOKENS))
    assert torch.allclose(normed, hidden_states(last)[-1], atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_attention_and_mlp_add_up_to_the_residual_stream(activations: Any, family: str) -> None:
    pre, mid, post, attention, mlp = (
        activations(family, f"{site}.1") for site in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
    )
    assert torch.allclose(pre + attention, mid, atol=1e-6)
    assert torch.allclose(mid + mlp, post, atol=1e-6)


@pytest.mark.parametrize(
    ("family", "projection"), [("gpt2", "attn.c_proj"), ("llama", "self_attn.o_proj"), ("gpt_neox", "attention.dense")]
)
def test_heads_are_what_the_output_projection_reads(
    family: str, projection: str, source: Any, activations: Any
) -> None:
    base = source(family, "attn_out.1").model.base_model
    layer = (base.h if family == "gpt2" else base.layers)[1]
    with torch.no_grad():
        written = layer.get_submodule(projection)(activations(family, "blocks.1.attn.hook_z"))
        computed = layer.mlp(activations(family, "blocks.1.mlp.hook_in"))
    assert torch.allclose(written, activations(family, "attn_out.1"), atol=1e-6)
    assert torch.allclose(computed, activations(family, "mlp_out.1"), atol=1e-6)


def test_parallel_attention_and_mlp_add_up_to_the_residual_stream(activations: Any) -> None:
    pre, post, attention, mlp = (
        activations("gpt_neox", f"{site}.1") for site in ("resid_pre", "resid_post", "attn_out", "mlp_out")
    )
    assert torch.allclose(pre + attention + mlp, post, atol=1e-6)


def test_what_an_encoder_layer_adds_comes_without_the_residual_stream(source: Any, activations: Any) -> None:
    mlp = source("bert", "mlp_out.1")
    layer = mlp.model.base_model.encoder.layer[1]
    attended = activations("bert", "encoder.layer.1.attention")
    with torch.no_grad():
        assert torch.allclose(
            layer.output.LayerNorm(mlp.activations(TOKENS) + attended), activations("bert", "resid_post.1"), atol=1e-6
        )
        assert torch.allclose(
            layer.attention.output.LayerNorm(activations("bert", "attn_out.1") + activations("bert", "resid_pre.1")),
            attended,
            atol=1e-6,
        )


@pytest.mark.parametrize("name", ["blocks.1.hook_resid_post", "layers.1", "h.1", "transformer.h.1"])
def test_a_place_has_several_names(activations: Any, name: str) -> None:
    assert torch.equal(activations("gpt2", name), activations("gpt2", "resid_post.1"))


def test_a_whole_base_model_output_can_be_read(source: Any) -> None:
    final = source("gpt2", "transformer")
    assert torch.equal(final.activations(TOKENS), hidden_states(final)[-1])
    assert torch.equal(final.logits(TOKENS, lambda x: x), final.logits(TOKENS))


def test_the_model_stops_at_the_hook(source: Any) -> None:
    stopped = source("gpt2", "resid_post.1")
    called: list[str] = []
    handles = [
        part.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, part in [("block 1", stopped.model.transformer.h[1]), ("block 2", stopped.model.transformer.h[2])]
    ]
    stopped.activations(TOKENS)
    assert called == ["block 1"]
    stopped.logits(TOKENS)
    assert called == ["block 1", "block 1", "block 2"]
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("family", CAUSAL)
@pytest.mark.parametrize("hook_name", ["resid_pre.1", "resid_post.1", "mlp_out.0", "attn_out.2"])
def test_replacing_by_the_same_changes_nothing_and_by_zero_does(source: Any, family: str, hook_name: str) -> None:
    whole = source(family, hook_name)
    seen: list[torch.Size] = []

    def same(x: torch.Tensor) -> torch.Tensor:
        seen.append(x.shape)
        return x.clone()

    logits = whole.logits(TOKENS)
    assert logits.shape == (2, 12, 29)
    assert torch.equal(whole.logits(TOKENS, same), logits)
    assert seen == [(2, 12, 8)]
    assert not torch.allclose(whole.logits(TOKENS, torch.zeros_like), logits)
    assert torch.equal(whole.logits(TOKENS), logits)


def test_a_hook_is_gone_after_an_error(source: Any) -> None:
    whole = source()

    def broken(_: torch.Tensor) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        whole.logits(TOKENS, broken)
    with pytest.raises(PlatformError, match=r"shape \[2, 12, 4\] where the model has \[2, 12, 8\]"):
        whole.logits(TOKENS, lambda x: x[..., :4])
    whole.activations(TOKENS)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in whole.model.modules())


def test_activations_carry_no_gradient_and_can_be_trained_on(source: Any) -> None:
    x = source().activations(TOKENS)
    assert not x.requires_grad
    (x @ torch.ones(8, 1, requires_grad=True)).sum().backward()


def test_an_encoder_has_activations_and_no_logits(source: Any) -> None:
    encoder = source("bert")
    assert not encoder.causal
    assert encoder.activations(TOKENS).shape == (2, 12, 8)
    with pytest.raises(PlatformError, match="no causal language model"):
        encoder.logits(TOKENS)


def test_a_layer_out_of_range_is_answered_with_the_layers_there_are(source: Any) -> None:
    with pytest.raises(PlatformError) as error:
        source("gpt2", "blocks.9.hook_resid_post")
    assert str(error.value) == (
        "GPT2LMHeadModel has no hook 'blocks.9.hook_resid_post'. Did you mean 'blocks.2.hook_resid_post'? "
        "Its layers are 0 to 2: for example blocks.0.hook_resid_post, resid_pre.2, mlp_out.2, "
        "or a module path such as transformer.h.2.mlp."
    )


@pytest.mark.parametrize(
    ("asked", "near"),
    [("blocks.1.hook_resid_pots", "blocks.1.hook_resid_post"), ("transformer.h.1.mpl", "transformer.h.1.mlp")],
)
def test_a_misspelt_hook_is_answered_with_the_nearest(source: Any, asked: str, near: str) -> None:
    with pytest.raises(PlatformError, match=f"Did you mean '{near}'"):
        source("gpt2", asked)


def test_the_head_is_no_hook(source: Any) -> None:
    with pytest.raises(PlatformError, match="no hook 'lm_head'"):
        source("gpt2", "lm_head")


@pytest.mark.parametrize("family", ["gpt_neox", "bert"])
def test_a_model_without_a_middle_of_the_stream_says_so(source: Any, family: str) -> None:
    with pytest.raises(PlatformError, match=r"has no 'resid_mid.1'.*a layer holds .*attention"):
        source(family, "resid_mid.1")


def test_a_tensor_without_one_vector_for_each_token_is_refused(source: Any) -> None:
    with pytest.raises(PlatformError, match=r"shape \[1, 3, 8\] for 2 contexts of 3 tokens"):
        source("gpt2", "wpe")


def test_a_module_that_the_model_does_not_use_is_refused(source: Any) -> None:
    with pytest.raises(PlatformError, match="never reached"):
        source("gpt2", "h")  # a list of layers is never called itself
