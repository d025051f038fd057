"""SAEs in models: outputs as computed by hand, and a model that is as before afterwards."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from sae_platform import SAE, PlatformError, SAEConfig, SAEMetadata
from sae_platform.hooked import attach

WIDTH, D_SAE = 16, 24
HOOK = "blocks.0.hook_resid_post"
TOKENS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if request.param == "gpt2":
            return GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=3, n_head=2, vocab_size=32, n_positions=16)).eval()
        config = LlamaConfig(
            hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, vocab_size=32
        )
        return LlamaForCausalLM(config).eval()


def an_sae(hook: str = HOOK, seed: int = 1, **settings: Any) -> SAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        settings = {"architecture": "topk", "k": 4, **settings}
        return SAEConfig(d_in=WIDTH, d_sae=D_SAE, metadata=SAEMetadata(hook_name=hook), **settings).build().eval()


def layers(model: Any) -> Any:
    return model.transformer.h if hasattr(model, "transformer") else model.model.layers


@torch.no_grad()
def by_hand(model: Any, change: Any) -> Tensor:
    """Logits of a model whose first layer gives something else."""

    def hook(_: Any, __: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = layers(model)[0].register_forward_hook(hook)
    try:
        logits: Tensor = model(TOKENS).logits
        return logits
    finally:
        handle.remove()


@torch.no_grad()
def test_the_reconstruction_stands_in_for_the_activation(model: Any) -> None:
    sae, clean = an_sae(), model(TOKENS).logits
    with attach(model, sae) as attached:
        logits = model(TOKENS).logits
    torch.testing.assert_close(logits, by_hand(model, sae), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(logits, clean, atol=1e-3)
    assert torch.equal(model(TOKENS).logits, clean)
    assert attached[f"{HOOK}.hook_sae_acts_post"].shape == (2, 4, D_SAE)
    torch.testing.assert_close(attached[f"{HOOK}.hook_sae_acts_post"], sae.encode(attached[f"{HOOK}.hook_sae_input"]))


@torch.no_grad()
def test_with_the_error_term_the_model_is_clean_until_features_change(model: Any) -> None:
    sae, clean = an_sae(), model(TOKENS).logits
    with attach(model, sae, use_error_term=True) as attached:
        torch.testing.assert_close(model(TOKENS).logits, clean, rtol=1e-5, atol=1e-5)
        attached.steer(3, 2.5)
        steered = model(TOKENS).logits
        attached.release()
        torch.testing.assert_close(model(TOKENS).logits, clean, rtol=1e-5, atol=1e-5)
    expected = by_hand(model, lambda x: x + 2.5 * sae.W_dec[3] / sae.W_dec[3].norm())
    torch.testing.assert_close(steered, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_ablated_features_are_zero(model: Any) -> None:
    sae = an_sae()

    def without(x: Tensor) -> Tensor:
        features = sae.encode(x)
        features[..., [0, 5]] = 0
        return sae.decode(features, x)

    with attach(model, sae) as attached:
        attached.ablate([0, 5])
        logits = model(TOKENS).logits
    torch.testing.assert_close(logits, by_hand(model, without), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_several_saes_and_generation(model: Any) -> None:
    saes = [an_sae(), an_sae("blocks.2.hook_resid_pre", 2), an_sae("blocks.1.hook_mlp_out", 3)]
    clean = model(TOKENS).logits
    with attach(model, saes) as attached:
        model.generate(TOKENS, max_new_tokens=3, do_sample=False, pad_token_id=0)
        assert len(attached) == 15  # five of each
    assert torch.equal(model(TOKENS).logits, clean)


@torch.no_grad()
def test_after_an_exception_the_model_is_as_before(model: Any) -> None:
    clean = model(TOKENS).logits
    with pytest.raises(RuntimeError, match="on purpose"), attach(model, an_sae()):
        raise RuntimeError("on purpose")
    assert torch.equal(model(TOKENS).logits, clean)


@torch.no_grad()
def test_a_transcoder_writes_elsewhere_with_its_skip_connection(model: Any) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        metadata = SAEMetadata(hook_name="blocks.1.hook_mlp_out", hook_name_out="blocks.1.hook_mlp_out")
        norm = "h.1.ln_2" if hasattr(model, "transformer") else "layers.1.post_attention_layernorm"
        sae = SAEConfig(
            architecture="skip_transcoder", d_in=WIDTH, d_out=WIDTH, d_sae=D_SAE,
            metadata=metadata.model_copy(update={"hook_name": norm}),
        ).build()  # fmt: skip
    mlp = layers(model)[1].mlp
    with attach(model, sae):
        logits = model(TOKENS).logits
    handle = mlp.register_forward_hook(lambda _, args, __: sae(args[0]))
    expected = model(TOKENS).logits
    handle.remove()
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)


def test_any_torch_module_can_have_one() -> None:
    model = nn.Sequential(nn.Linear(3, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 2))
    sae, x = an_sae("1"), torch.randn(5, 3)
    with attach(model, sae):
        found = model(x)
    torch.testing.assert_close(found, model[2](sae(model[:2](x))))
    with pytest.raises(PlatformError, match="no module 'relu'. It has 0, 1, 2"), attach(model, {"relu": sae}):
        pass


def test_what_cannot_be_attached_is_named(model: Any) -> None:
    misspelt = an_sae("blocks.0.hook_resid_pots")
    with pytest.raises(PlatformError, match="'blocks.0.hook_resid_pots'. Did you mean"), attach(model, misspelt):
        pass
    with (
        pytest.raises(PlatformError, match="Two SAEs are at blocks.0.hook_resid_post"),
        attach(model, [an_sae(), an_sae("resid_post.0")]),
    ):
        pass
    with attach(model, an_sae().to("meta")), pytest.raises(PlatformError, match="is on meta and the model on cpu"):
        model(TOKENS)
    with attach(model, an_sae()) as attached:
        with pytest.raises(PlatformError, match="no feature 24"):
            attached.steer(24, 1.0)
        with pytest.raises(PlatformError, match="Did you mean 'blocks.0.hook_resid_post'"):
            attached.ablate(1, "blocks.0.hook_resid_pot")
        with pytest.raises(KeyError, match="There is no"):
            attached["nothing"]
    with pytest.raises(PlatformError, match="no feature 1.5"), attach(model, an_sae()) as attached:
        attached.steer(1.5, 1.0)  # type: ignore[arg-type]
    wide = an_sae("blocks.0.mlp.hook_post")
    with pytest.raises(PlatformError, match="The SAE at blocks.0.mlp.hook_post reads"), attach(model, wide):
        model(TOKENS)
    for given, message in ((("model", an_sae()), "not to a str"), ((model, "a/path"), "is no SAE; SAE.load_from_disk")):
        with pytest.raises(PlatformError, match=message), attach(*given):
            pass
    with pytest.raises(PlatformError, match="not 'typo'"), attach(model, an_sae(), use_error_term={"typo": True}):
        pass
