"""SAELens' ActivationsStore over every kind of model that is loaded already."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from sae_platform import (
    SAE,
    ActivationsStore,
    HookedSAETransformer,
    LanguageModelSAERunnerConfig,
    PlatformError,
    SAEConfig,
)
from sae_platform_transformers.models import EMBEDDED

HOOK = "blocks.1.hook_resid_post"
SIZES: dict[str, Any] = {"store_batch_size_prompts": 8, "train_batch_size_tokens": 512, "n_batches_in_buffer": 4}


@pytest.fixture(scope="module")
def plain() -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(EMBEDDED["tinypy"], dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def hooked() -> HookedSAETransformer:
    return HookedSAETransformer.from_pretrained(str(EMBEDDED["tinypy"]))


def an_sae(**metadata: Any) -> SAE:
    metadata = {"hook_name": HOOK, "dataset_path": "stdlib", "context_size": 32, **metadata}
    return SAEConfig(architecture="topk", d_in=192, d_sae=64, k=5, metadata=metadata).build().eval()


def test_tokens_and_activations(plain: Any) -> None:
    cfg = LanguageModelSAERunnerConfig(d_sae=64, context_size=32, **SIZES)
    for store in (ActivationsStore.from_config(plain, cfg), ActivationsStore.from_sae(plain, an_sae(), **SIZES)):
        tokens = store.get_batch_tokens()
        assert (tokens.shape, tokens.dtype) == ((8, 32), torch.int64)
        assert store.get_batch_tokens(3).shape == (3, 32)
        assert store.get_activations(tokens).shape == (8, 32, 192)
        assert store.next_batch().shape == next(iter(store)).shape == (512, 192)


@torch.no_grad()
def test_a_bridge_gives_the_same_whatever_saes_are_in_it(plain: Any, hooked: HookedSAETransformer) -> None:
    sae = an_sae()
    stores = [ActivationsStore.from_sae(model, sae, **SIZES) for model in (plain, hooked.bridge, hooked)]
    tokens = [store.get_batch_tokens() for store in stores]
    assert torch.equal(tokens[0], tokens[1])
    assert torch.equal(tokens[0], tokens[2])
    with hooked.saes([sae]):
        found = [store.get_activations(tokens[0]) for store in stores]
        rows = [store.next_batch() for store in stores]
    for other in (1, 2):
        torch.testing.assert_close(found[0], found[other], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(rows[0], rows[other], rtol=1e-4, atol=1e-4)


def test_an_sae_of_centred_weights_gets_centred_activations(plain: Any, hooked: HookedSAETransformer) -> None:
    sae = an_sae(model_from_pretrained_kwargs={"center_writing_weights": True})
    raw = ActivationsStore.from_sae(plain, an_sae(), **SIZES)
    tokens = raw.get_batch_tokens()
    x = raw.get_activations(tokens)
    for model in (plain, hooked):
        centred = ActivationsStore.from_sae(model, sae, **SIZES).get_activations(tokens)
        torch.testing.assert_close(centred, x - x.mean(-1, keepdim=True), rtol=1e-4, atol=1e-4)


def test_the_policy_of_saelens_is_the_one_of_its_sae(plain: Any) -> None:
    policy = {"prepend_bos": False, "exclude_special_tokens": False, "separator": "bos"}
    store = ActivationsStore.from_sae(plain, an_sae(token_policy=policy), **SIZES)
    bos = plain.config.bos_token_id
    tokens = store.get_batch_tokens(64)
    assert (tokens[:, 0] != bos).any()
    assert (tokens == bos).any()


def test_weights_processed_otherwise_are_refused(plain: Any) -> None:
    folded = an_sae(hook_name="blocks.1.mlp.hook_in", model_from_pretrained_kwargs={"fold_ln": True})
    with pytest.raises(PlatformError, match="with fold_ln, which is not given here"):
        ActivationsStore.from_sae(plain, folded, **SIZES)


def test_what_is_missing_is_named(plain: Any) -> None:
    with pytest.raises(PlatformError, match="device is 'cuda', but the model is on cpu"):
        ActivationsStore.from_sae(plain, an_sae(), device="cuda")
    with pytest.raises(PlatformError, match="does not say where it reads"):
        ActivationsStore.from_sae(plain, an_sae(hook_name=None))
    with pytest.raises(PlatformError, match="does not say what it was trained on"):
        ActivationsStore.from_sae(plain, an_sae(dataset_path=None))
