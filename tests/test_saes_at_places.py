"""SAEs at every place of a model, plain or in TransformerLens' bridge: what the model gives is what a forward pass
written out by hand gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from by_hand import changing, gpt2_by_hand
from language_models import ModelFolder
from sae_platform import SAE, HookedSAETransformer, PlatformError, SAEConfig, attach
from sae_platform.hooks.sites import INNER, SITES, Place

TOKENS = torch.arange(24).reshape(2, 12) % 26 + 3
D_SAE = 12
PLACES = [str(Place(1, site)) for site in (*SITES, *INNER)]
WIDTHS = {"blocks.1.mlp.hook_pre": 32, "blocks.1.mlp.hook_post": 32}  # of others: 8
pytestmark = pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale/hook_normalized")


@pytest.fixture(scope="module")
def folder(model_folder: ModelFolder) -> str:
    return str(model_folder("gpt2"))


@pytest.fixture(scope="module")
def plain(folder: str) -> Any:
    from transformers import GPT2LMHeadModel

    return GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def hooked(folder: str) -> HookedSAETransformer:
    return HookedSAETransformer.from_pretrained(folder)


@pytest.fixture(params=["plain", "bridge"])
def model(request: pytest.FixtureRequest, plain: Any, hooked: HookedSAETransformer) -> Any:
    return plain if request.param == "plain" else hooked.bridge


def logits_of(model: Any) -> Tensor:
    output = model(TOKENS)
    return output if isinstance(output, Tensor) else output.logits  # type: ignore[no-any-return]


def an_sae(place: str, architecture: str = "standard", seed: int = 1, **metadata: Any) -> Any:
    width = WIDTHS.get(place, 8)
    settings: dict[str, Any] = {"d_out": 8} if "transcoder" in architecture else {"decoder_init_norm": 1.0}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        metadata = {"hook_name": place, **metadata}
        sae: SAE = SAEConfig(architecture=architecture, d_in=width, d_sae=D_SAE, metadata=metadata, **settings).build()
        for parameter in sae.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return sae.eval()


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("place", PLACES)
def test_reconstructions_error_terms_and_interventions(model: Any, plain: Any, place: str) -> None:
    sae = an_sae(place)

    def by_hand(change: Callable[[Tensor], Tensor]) -> Tensor:
        return gpt2_by_hand(plain, TOKENS, changing(place, change))

    clean = by_hand(lambda x: x)
    with attach(model, sae) as attached:
        found = logits_of(model)
        close(found, by_hand(sae))
        assert (found - clean).abs().max() > 1e-4
        close(attached[f"{place}.hook_sae_acts_pre"].relu(), attached[f"{place}.hook_sae_acts_post"])

        attached.ablate([0, 3])
        close(logits_of(model), by_hand(lambda x: sae.decode(sae.encode(x).index_fill(-1, torch.tensor([0, 3]), 0.0))))

        attached.release()
        attached.steer(5, 1.5)
        close(logits_of(model), by_hand(lambda x: sae(x) + 1.5 * sae.W_dec[5]))
    with attach(model, sae, use_error_term=True) as attached:
        close(logits_of(model), clean)
        attached.steer(5, 1.5)
        close(logits_of(model), by_hand(lambda x: x + 1.5 * sae.W_dec[5]))
    close(logits_of(model), clean)


@torch.no_grad()
@pytest.mark.parametrize("reads", ["mlp.hook_in", "ln2.hook_normalized", "hook_mlp_in", "hook_resid_mid"])
@pytest.mark.parametrize("architecture", ["transcoder", "skip_transcoder"])
def test_a_transcoder_writes_where_it_says(model: Any, plain: Any, architecture: str, reads: str) -> None:
    sae = an_sae(f"blocks.1.{reads}", architecture, hook_name_out="blocks.1.hook_mlp_out")
    seen: list[Tensor] = []

    def at(name: str, x: Tensor) -> Tensor:
        if name == f"blocks.1.{reads}":
            seen.append(x)
        return sae(seen.pop()) if name == "blocks.1.hook_mlp_out" else x

    clean = logits_of(model)
    with attach(model, sae):
        close(logits_of(model), gpt2_by_hand(plain, TOKENS, at))
    assert torch.equal(logits_of(model), clean)


@torch.no_grad()
@pytest.mark.parametrize("order", [1, -1])
def test_several_saes_at_once_in_any_order(model: Any, plain: Any, order: int) -> None:
    sites = ["attn.hook_v", "hook_mlp_in", "hook_resid_mid", "hook_mlp_out", "hook_resid_post"]
    saes = {f"blocks.1.{site}": an_sae(f"blocks.1.{site}", seed=seed) for seed, site in enumerate(sites)}
    expected = gpt2_by_hand(plain, TOKENS, lambda name, x: saes[name](x) if name in saes else x)
    with attach(model, list(saes.values())[::order]) as attached:
        close(logits_of(model), expected)
        assert len(attached) == 5 * len(saes)


@torch.no_grad()
@pytest.mark.parametrize("reads", ["mlp.hook_in", "ln2.hook_normalized"])
def test_the_error_of_a_transcoder_is_what_the_model_would_have_written(model: Any, reads: str) -> None:
    sae = an_sae(f"blocks.1.{reads}", "skip_transcoder", hook_name_out="blocks.1.hook_mlp_out")
    clean = logits_of(model)
    with attach(model, sae, use_error_term=True) as attached:
        close(logits_of(model), clean)
        attached.steer(3, 2.0)
        assert (logits_of(model) - clean).abs().max() > 1e-3
    sae.use_error_term = True
    with pytest.raises(PlatformError, match="what the model writes"):
        sae(torch.zeros(1, 8))


@torch.no_grad()
@pytest.mark.parametrize("grad", [False, True])
def test_features_may_be_changed_in_place(model: Any, plain: Any, grad: bool) -> None:
    place = "blocks.1.hook_resid_post"
    sae = an_sae(place)

    def change(features: Tensor) -> Tensor:
        features[..., 5] = 7.0
        return features

    with attach(model, sae, use_error_term=True) as attached, torch.set_grad_enabled(grad):
        attached.edit(change)
        attached.edit(lambda x: x.mul_(1.0), part="hook_sae_input")
        found = logits_of(model)
        if grad:
            found.sum().backward()
    expected = gpt2_by_hand(plain, TOKENS, changing(place, lambda x: x - sae(x) + sae.decode(change(sae.encode(x)))))
    close(found, expected)


@torch.no_grad()
@pytest.mark.parametrize(
    "chosen", ["hook_sae_input", "hook_sae_acts_post", "hook_sae_recons", "hook_sae_error", "hook_sae_output"]
)
def test_every_part_of_what_is_computed_can_be_changed(model: Any, plain: Any, chosen: str) -> None:
    place = "blocks.1.hook_mlp_out"
    sae = an_sae(place)

    def at(part: str, x: Tensor) -> Tensor:
        return 2 * x if part == chosen else x

    def by_hand(x: Tensor) -> Tensor:
        read = at("hook_sae_input", x)
        error = x - sae(read)
        recons = at("hook_sae_recons", sae.decode(at("hook_sae_acts_post", sae.encode(read))))
        return at("hook_sae_output", recons + at("hook_sae_error", error))

    with attach(model, sae, use_error_term=True) as attached:
        attached.edit(lambda x: 2 * x, part=chosen)
        close(logits_of(model), gpt2_by_hand(plain, TOKENS, changing(place, by_hand)))
        with pytest.raises(PlatformError, match="hook_sae_acts_pre' cannot be changed"):
            attached.edit(lambda x: x, part="hook_sae_acts_pre")


def test_a_place_that_the_model_never_comes_to_is_said(plain: Any) -> None:
    unused = "transformer.h"  # a list of layers, which is never called itself
    with (
        pytest.warns(UserWarning, match="never came to transformer.h: the SAE there did nothing"),
        attach(plain, {unused: an_sae(unused)}),
    ):
        logits_of(plain)


@torch.no_grad()
def test_an_sae_of_centred_weights_reads_and_writes_without_the_mean(model: Any, plain: Any) -> None:
    place = "blocks.1.hook_resid_mid"
    sae = an_sae(place, model_from_pretrained_kwargs={"center_writing_weights": True})
    with attach(model, sae) as attached:
        found = logits_of(model)
        x = attached[f"{place}.hook_sae_input"]
    close(x.mean(-1), torch.zeros(2, 12))
    close(found, gpt2_by_hand(plain, TOKENS, changing(place, lambda x: sae(x - x.mean(-1, keepdim=True)))))
    with attach(model, sae, use_error_term=True):
        close(logits_of(model), gpt2_by_hand(plain, TOKENS, lambda _, x: x))


@torch.no_grad()
@pytest.mark.parametrize("processing", [{"center_writing_weights": True}, {"fold_ln": True}, {"center_unembed": True}])
def test_processed_weights_predict_the_same(folder: str, plain: Any, processing: dict[str, bool]) -> None:
    processed = HookedSAETransformer.from_pretrained(folder, **processing)
    torch.testing.assert_close(
        processed(TOKENS).log_softmax(-1), logits_of(plain).log_softmax(-1), rtol=1e-4, atol=1e-4
    )
    sae = an_sae("blocks.1.hook_resid_post", model_from_pretrained_kwargs={"center_writing_weights": True})
    with attach(plain, sae):
        expected = logits_of(plain).log_softmax(-1)
    found = processed.run_with_saes(TOKENS, saes=[sae]).log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("site", "architecture"), [("hook_resid_mid", "standard"), ("ln2.hook_normalized", "transcoder")]
)
def test_gradients_are_those_of_a_forward_pass_written_out(
    model: Any, plain: Any, site: str, architecture: str
) -> None:
    place, out = f"blocks.1.{site}", "blocks.1.hook_mlp_out"
    sae = an_sae(place, architecture, **({"hook_name_out": out} if architecture == "transcoder" else {}))
    inner = plain if model is plain else model.original_model
    weights = [next(each.transformer.wte.parameters()) for each in (inner, plain)]
    waiting: list[Tensor] = []

    def at(name: str, x: Tensor) -> Tensor:
        if architecture == "standard":
            return sae(x) if name == place else x
        if name == place:
            waiting.append(x)
        return sae(waiting.pop()) if name == out else x

    with attach(model, sae):
        found = torch.autograd.grad(logits_of(model)[..., 3].sum(), weights[0])[0]
    expected = torch.autograd.grad(gpt2_by_hand(plain, TOKENS, at)[..., 3].sum(), weights[1])[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_what_a_bridge_has_not_is_named(hooked: HookedSAETransformer) -> None:
    with pytest.raises(PlatformError, match="no hook 'blocks.1.attn.hook_zz'. Did you mean 'blocks.1.attn.hook_z'"):
        hooked.add_sae(an_sae("blocks.1.attn.hook_zz"))
    with pytest.raises(PlatformError, match="does not say where it writes"):
        hooked.add_sae(an_sae("blocks.1.mlp.hook_in", "transcoder"))
    assert hooked.acts_to_saes == {}
