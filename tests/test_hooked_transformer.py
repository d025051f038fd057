"""SAEs in TransformerLens' bridge: the same outputs as in the plain model, and the same names as in SAELens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from sae_platform import HookedSAETransformer, PlatformError, SAEConfig, SAEMetadata, attach
from sae_platform.sae import SAE
from sae_platform_transformers.models import EMBEDDED

HOOK, OTHER = "blocks.1.hook_resid_post", "blocks.0.hook_mlp_out"
FEATURES = f"{HOOK}.hook_sae_acts_post"
TOKENS = torch.tensor([[5, 6, 7, 8], [1, 2, 3, 4]])
D_IN, D_SAE = 192, 48


@pytest.fixture(scope="module")
def model() -> HookedSAETransformer:
    return HookedSAETransformer.from_pretrained(str(EMBEDDED["tinypy"]))


@pytest.fixture(scope="module")
def plain() -> Any:
    return GPT2LMHeadModel.from_pretrained(EMBEDDED["tinypy"], dtype=torch.float32).eval()


def an_sae(hook: str = HOOK, seed: int = 1) -> SAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        metadata = SAEMetadata(hook_name=hook)
        return SAEConfig(architecture="topk", d_in=D_IN, d_sae=D_SAE, k=4, metadata=metadata).build().eval()


@torch.no_grad()
def test_it_computes_what_the_plain_model_does(model: Any, plain: Any) -> None:
    saes = [an_sae(), an_sae(OTHER, 2)]
    clean = plain(TOKENS).logits
    torch.testing.assert_close(model(TOKENS), clean, rtol=1e-5, atol=1e-5)
    with attach(plain, saes):
        expected = plain(TOKENS).logits
    torch.testing.assert_close(model.run_with_saes(TOKENS, saes=saes), expected, rtol=1e-5, atol=1e-5)
    with_error = model.run_with_saes(TOKENS, saes=saes, use_error_term=True)
    torch.testing.assert_close(with_error, clean, rtol=1e-5, atol=1e-5)
    assert model.acts_to_saes == {}
    torch.testing.assert_close(model(TOKENS), clean, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_cache_holds_what_saes_computed(model: Any) -> None:
    sae = an_sae()
    output, cache = model.run_with_cache_with_saes(TOKENS, saes=[sae])
    assert cache[FEATURES].shape == (2, 4, D_SAE)
    torch.testing.assert_close(cache[FEATURES], sae.encode(cache[f"{HOOK}.hook_sae_input"]))
    assert "blocks.0.hook_resid_post" in cache
    torch.testing.assert_close(output, model.run_with_saes(TOKENS, saes=sae))


@torch.no_grad()
def test_hooks_change_features_and_the_rest(model: Any) -> None:
    sae, seen = an_sae(), []

    def steer(features: Tensor, hook: Any) -> Tensor:
        seen.append(hook.name)
        return features + 2.0

    def look(activation: Tensor, hook: Any) -> None:
        seen.append(hook.name)

    hooks = [(FEATURES, steer), ("blocks.0.hook_resid_post", look)]
    changed = model.run_with_hooks_with_saes(TOKENS, saes=[sae], fwd_hooks=hooks)
    with attach(model.bridge.original_model, sae) as attached:
        attached.edit(lambda features: features + 2.0)
        torch.testing.assert_close(changed, model.bridge(TOKENS))
    assert FEATURES in seen
    assert len(seen) == 2
    with pytest.raises(PlatformError, match="cannot be changed. What can: none"):
        model.run_with_hooks(TOKENS, fwd_hooks=[(FEATURES, steer)])


@torch.no_grad()
def test_saes_stay_until_they_are_reset(model: Any) -> None:
    first, second = an_sae(), an_sae(OTHER, 2)
    clean = model(TOKENS)
    model.add_sae(first)
    with model.saes([second]):
        assert list(model.acts_to_saes) == [HOOK, OTHER]
    with pytest.raises(RuntimeError, match="on purpose"), model.saes([second]):
        raise RuntimeError("on purpose")
    assert model.acts_to_saes == {HOOK: first}
    torch.testing.assert_close(model(TOKENS), model.run_with_saes(TOKENS, saes=[first]))
    with pytest.raises(PlatformError, match=f"no SAE at '{OTHER}'. SAEs: {HOOK}"):
        model.reset_saes(OTHER)
    model.reset_saes()
    torch.testing.assert_close(model(TOKENS), clean)


def test_an_unknown_hook_is_an_error(model: Any) -> None:
    with pytest.raises(PlatformError, match="has no hook 'blocks.9.hook_resid_post'"):
        model.add_sae(an_sae("blocks.9.hook_resid_post"))
    assert model.acts_to_saes == {}


def test_what_is_not_here_is_the_bridges(model: Any) -> None:
    assert model.cfg is model.bridge.cfg


@torch.no_grad()
def test_functions_stay_at_features_until_they_are_taken_out(model: Any) -> None:
    sae, seen = an_sae(), []
    with model.saes([sae]):
        reconstructed = model(TOKENS)
        without = model.run_with_hooks(TOKENS, fwd_hooks=[(FEATURES, lambda features, hook: features * 0)])
        with model.hooks(fwd_hooks=[(lambda name: name == FEATURES, lambda features, hook: features * 0)]):
            torch.testing.assert_close(model(TOKENS), without)
        torch.testing.assert_close(model(TOKENS), reconstructed)
        model.add_hook(FEATURES, lambda features, hook: features * 0)
        model.add_hook("blocks.0.hook_resid_post", lambda x, hook: seen.append(hook.name))
        torch.testing.assert_close(model(TOKENS), without)
        model.run_with_saes(TOKENS, saes=[an_sae(OTHER, 2)])
        torch.testing.assert_close(model(TOKENS), without)
        assert len(seen) == 3  # the user's own hooks go on
        model.reset_hooks()
        torch.testing.assert_close(model(TOKENS), reconstructed)
    assert len(seen) == 3
    with pytest.raises(PlatformError, match="cannot be changed. What can: none"), model.hooks([(FEATURES, print)]):
        pass


@torch.no_grad()
def test_the_cache_holds_what_is_asked_for(model: Any) -> None:
    names = [FEATURES, f"{HOOK}.hook_sae_acts_pre", "blocks.0.hook_resid_post"]
    for wanted in (names, lambda name: name in names):
        _, cache = model.run_with_cache_with_saes(TOKENS, saes=[an_sae()], names_filter=wanted)
        assert {name for name in cache if "hook_sae" in name} == set(names[:2])
        assert cache["blocks.0.hook_resid_post"].shape == (2, 4, D_IN)
    _, cache = model.run_with_cache_with_saes(TOKENS, saes=[an_sae()], names_filter=FEATURES)
    assert list(cache) == [FEATURES]
    _, cache = model.run_with_cache_with_saes(TOKENS[:1], saes=[an_sae()], remove_batch_dim=True)
    assert cache[FEATURES].shape == (4, D_SAE)
    _, found = model.run_with_cache_with_saes(
        TOKENS, saes=[an_sae()], use_error_term=True, return_cache_object=False, names_filter=lambda name: HOOK in name
    )
    siblings = ["input", "acts_pre", "acts_post", "recons", "output", "error"]
    assert {f"{HOOK}.hook_sae_{name}" for name in siblings} <= set(found)
    torch.testing.assert_close(found[f"{HOOK}.hook_sae_output"], found[f"{HOOK}.hook_sae_input"])


@torch.no_grad()
def test_text_is_generated_with_the_saes(model: Any) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "verbose": False}
    clean = model.generate(TOKENS[:1], **settings)
    sae = an_sae()
    with model.saes([sae]):
        changed = model.generate(TOKENS[:1], **settings)
        streamed = list(model.generate_stream(TOKENS[:1], **settings))[-1]
        following = [model(changed[:, :size])[0, -1].argmax().item() for size in range(4, 10)]
    assert changed[0, 4:].tolist() == following
    assert streamed[0, -1] == changed[0, -1]
    assert torch.equal(model.generate(TOKENS[:1], **settings), clean)


@torch.no_grad()
def test_after_an_exception_in_the_model_nothing_is_left_in_it(model: Any) -> None:
    clean = model(TOKENS)

    def fail(features: Tensor, hook: Any) -> None:
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        model.run_with_hooks_with_saes(TOKENS, saes=[an_sae()], fwd_hooks=[(FEATURES, fail)])
    assert model.acts_to_saes == {}
    assert torch.equal(model(TOKENS), clean)
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(PlatformError, match="cannot load the model"):
        HookedSAETransformer.from_pretrained(str(tmp_path))


def test_gradients_of_features_are_given_to_functions(model: Any) -> None:
    sae, seen = an_sae(), {}
    with model.saes([sae]):
        model.add_hook(FEATURES, lambda gradient, hook: seen.update({hook.name: gradient.clone()}), "bwd")
        model(TOKENS)[0, -1, 3].backward()
        model.reset_hooks()
        found = model.run_with_hooks(
            TOKENS, bwd_hooks=[(FEATURES, lambda gradient, hook: seen.update({hook.layer(): gradient.clone()}))]
        )
        found[0, -1, 3].backward()
    features = sae.encode(model.bridge.run_with_cache(TOKENS)[1][HOOK]).detach().requires_grad_()
    with attach(model, sae) as attached:
        attached.edit(lambda _: features)
        model.bridge(TOKENS)[0, -1, 3].backward()
    torch.testing.assert_close(seen[FEATURES], features.grad)
    torch.testing.assert_close(seen[1], features.grad)


@torch.no_grad()
def test_moving_it_keeps_the_saes(model: Any) -> None:
    with model.saes([an_sae()]):
        expected = model(TOKENS)
        assert model.eval() is model
        assert model.to("cpu") is model
        torch.testing.assert_close(model.requires_grad_(True)(TOKENS), expected)
    tokenizer = model.tokenizer
    model.tokenizer = None
    assert model.bridge.tokenizer is None
    model.tokenizer = tokenizer


def test_a_setting_that_nothing_knows_is_an_error(model: Any) -> None:
    with pytest.raises(PlatformError, match="sae is no setting of a run of the model. Did you mean 'saes'"):
        model.run_with_saes(TOKENS, sae=[an_sae()])
    with pytest.raises(PlatformError, match="exclude_special_tokens is no setting"):
        model.run_with_saes(TOKENS, saes=[an_sae()], exclude_special_tokens=True)
    with pytest.raises(PlatformError, match="no dtype 'flaot'"):
        HookedSAETransformer.from_pretrained(str(EMBEDDED["tinypy"]), dtype="flaot")
    with pytest.raises(PlatformError, match="switched off"):
        model.run_with_saes(TOKENS, saes=[an_sae("blocks.1.attn.hook_result")])
