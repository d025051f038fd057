"""SAEs in TransformerLens' bridge: the same outputs as in the plain model, and the same names as in SAELens."""

from __future__ import annotations

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
    torch.testing.assert_close(model(TOKENS), clean, rtol=1e-4, atol=1e-4)
    with attach(plain, saes):
        expected = plain(TOKENS).logits
    torch.testing.assert_close(model.run_with_saes(TOKENS, saes=saes), expected, rtol=1e-4, atol=1e-4)
    with_error = model.run_with_saes(TOKENS, saes=saes, use_error_term=True)
    torch.testing.assert_close(with_error, clean, rtol=1e-4, atol=1e-4)
    assert model.acts_to_saes == {}
    torch.testing.assert_close(model(TOKENS), clean, rtol=1e-4, atol=1e-4)


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
    with pytest.raises(PlatformError, match="cannot be changed. Features: none"):
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
