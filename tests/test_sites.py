"""Places in models: the same activations, and the same outputs when they are replaced, as in TransformerLens' bridge
and in forward passes written out by hand."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from by_hand import changing, gpt2_by_hand
from language_models import FAMILIES, SIZES, ModelFolder
from sae_platform import PlatformError
from sae_platform.hooks import ModuleHook, find_hook, read
from sae_platform.hooks.sites import INNER, SITES, Place, is_centred

TOKENS = torch.arange(24).reshape(2, 12) % 26 + 3
DECODERS = [family for family in FAMILIES if family != "bert"]
CENTRED = {"center_writing_weights": True}
ABSENT = {  # what a family has not, and why
    "gpt_neox": {"resid_mid", "hook_mlp_in"},  # attention and MLP read the same stream
    "phi3": {"mlp.hook_pre"},  # one matrix computes gate and value
    "glm4": {"mlp.hook_pre"},
    "olmo2": {"ln1.hook_normalized", "ln2.hook_normalized"},  # norms come after attention and MLP
}
ONLY_PLAIN = {"bloom": {"hook_mlp_in"}}  # where the bridge never reaches its own hook


@pytest.fixture(scope="module")
def models(model_folder: ModelFolder) -> Any:
    """A plain model of a family, and a bridge around another copy, with weights processed as asked."""
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import AutoModelForCausalLM

    @cache
    def load(family: str, centred: bool = False) -> tuple[Any, Any]:
        folder = str(model_folder(family))
        plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        bridge = TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)
        if centred:
            bridge.enable_compatibility_mode(
                disable_warnings=True, fold_ln=False, center_unembed=False, fold_value_biases=False
            )
        return plain, bridge

    return load


def names_of(family: str, layer: int = 1) -> list[str]:
    """The names of all places that a layer of this family has."""
    absent = ABSENT.get(family, set()) | ONLY_PLAIN.get(family, set())
    return [str(Place(layer, site)) for site in (*SITES, *INNER) if site not in absent]


def logits_of(model: Any) -> Tensor:
    output = model(TOKENS)
    return output if isinstance(output, Tensor) else output.logits  # type: ignore[no-any-return]


def changed(x: Tensor) -> Tensor:
    return 0.5 * x + 0.1


@torch.no_grad()
@pytest.mark.parametrize("family", DECODERS)
def test_activations_are_those_of_transformer_lens(models: Any, family: str) -> None:
    plain, bridge = models(family)
    for name in names_of(family):
        ours, theirs = (read(model, find_hook(model, name), TOKENS) for model in (plain, bridge))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale/hook_normalized")
@pytest.mark.parametrize("family", DECODERS)
def test_replacing_them_changes_the_output_as_there(models: Any, family: str) -> None:
    plain, bridge = models(family)
    clean = logits_of(plain)
    for name in names_of(family):
        outputs = []
        for model in (plain, bridge):
            with find_hook(model, name).hooked(changed):
                outputs.append(logits_of(model))
        torch.testing.assert_close(*outputs, rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")
        assert not torch.allclose(outputs[0], clean, atol=1e-5), name
        assert torch.equal(logits_of(plain), clean)
        torch.testing.assert_close(logits_of(bridge), clean, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_centred_activations_are_those_of_centred_weights(models: Any, family: str) -> None:
    plain, bridge = models(family, centred=True)
    moved = False
    for name in names_of(family):
        ours = read(plain, find_hook(plain, name, CENTRED), TOKENS)
        for place in (find_hook(bridge, name), find_hook(bridge, name, CENTRED)):  # centring twice is centring once
            torch.testing.assert_close(ours, read(bridge, place, TOKENS), rtol=1e-4, atol=1e-5)
        moved |= not torch.allclose(ours, read(plain, find_hook(plain, name), TOKENS), atol=1e-4)
    assert moved == (family != "llama")  # an RMSNorm reads the mean: there are no centred weights


@torch.no_grad()
def test_what_is_put_in_place_of_a_centred_activation_reaches_the_model(models: Any) -> None:
    plain, bridge = models("gpt2", centred=True)
    clean = logits_of(plain)
    for name in ("blocks.1.hook_resid_mid", "blocks.0.hook_mlp_out"):
        with find_hook(plain, name, CENTRED).hooked(lambda x: x.clone()):
            torch.testing.assert_close(logits_of(plain), clean, rtol=1e-4, atol=1e-5)
        with find_hook(plain, name, CENTRED).hooked(lambda x: 2 * x), find_hook(bridge, name).hooked(lambda x: 2 * x):
            torch.testing.assert_close(logits_of(plain), logits_of(bridge), rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("site", [*SITES, *INNER])
def test_every_place_is_the_one_in_a_forward_pass_written_out(models: Any, site: str) -> None:
    model, name = models("gpt2")[0], str(Place(1, site))
    seen: dict[str, Tensor] = {}
    torch.testing.assert_close(
        logits_of(model), gpt2_by_hand(model, TOKENS, lambda name, x: seen.setdefault(name, x)), rtol=1e-5, atol=1e-5
    )
    point = find_hook(model, name)
    torch.testing.assert_close(read(model, point, TOKENS), seen[name], rtol=1e-5, atol=1e-5)
    with point.hooked(changed):
        found = logits_of(model)
    torch.testing.assert_close(found, gpt2_by_hand(model, TOKENS, changing(name, changed)), rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_what_a_norm_computes_comes_before_its_gain(models: Any, family: str) -> None:
    model = models(family)[0]
    x = read(model, find_hook(model, "blocks.1.hook_resid_mid"), TOKENS)
    normalized = read(model, find_hook(model, "blocks.1.ln2.hook_normalized"), TOKENS)
    if family == "gpt2":
        norm = model.transformer.h[1].ln_2
        torch.testing.assert_close(normalized, torch.nn.functional.layer_norm(x, x.shape[-1:], eps=norm.eps))
        gain, bias = norm.weight, norm.bias
    else:
        norm = model.model.layers[1].pre_feedforward_layernorm
        torch.testing.assert_close(normalized, torch.nn.functional.rms_norm(x, x.shape[-1:], eps=norm.eps))
        gain, bias = 1 + norm.weight, torch.zeros(())
    torch.testing.assert_close(
        normalized * gain + bias, read(model, find_hook(model, "blocks.1.mlp.hook_in"), TOKENS), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("family", "site"), [(family, site) for family, sites in ABSENT.items() for site in sorted(sites)]
)
def test_a_place_that_a_model_has_not_is_refused(models: Any, family: str, site: str) -> None:
    with pytest.raises(PlatformError, match="nothing in its layers is known to be that place"):
        find_hook(models(family)[0], str(Place(1, site)))


@pytest.mark.parametrize(
    ("name", "settings", "refused", "there"),
    [
        ("Granite", {"residual_multiplier": 0.3}, ["hook_attn_out", "hook_mlp_out"], ["hook_resid_mid", "mlp.hook_in"]),
        ("Bloom", {"apply_residual_connection_post_layernorm": True}, ["hook_resid_mid"], ["hook_resid_post"]),
        ("Olmo", {}, ["ln1.hook_normalized", "ln2.hook_normalized"], ["hook_mlp_out"]),
    ],
)
def test_layers_that_do_otherwise_are_known(
    name: str, settings: dict[str, Any], refused: list[str], there: list[str]
) -> None:
    model_class = getattr(transformers, f"{name}ForCausalLM")
    with torch.device("meta"):
        model = model_class(model_class.config_class(**SIZES, **settings))
    for site in refused:
        with pytest.raises(PlatformError, match="known to be that place"):
            find_hook(model, f"blocks.1.{site}")
    for site in there:
        find_hook(model, f"blocks.1.{site}")


def test_the_layers_of_a_model_with_images_are_those_of_its_text() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.Gemma3Config(
        text_config={**SIZES, "num_key_value_heads": 1, "head_dim": 4, "pad_token_id": 0},
        vision_config={**sizes, "image_size": 28, "patch_size": 14},
    )
    with torch.device("meta"):
        model = transformers.Gemma3ForConditionalGeneration(config)
    found = find_hook(model, "blocks.1.hook_resid_post")
    assert isinstance(found, ModuleHook)
    assert found.module is model.get_decoder().layers[1]


def test_an_unknown_place_of_a_bridge_is_answered_with_the_nearest(models: Any) -> None:
    bridge = models("gpt2")[1]
    with pytest.raises(PlatformError, match="no hook 'blocks.1.hook_resid_pots'. Did you mean 'blocks.1.hook_resid_po"):
        find_hook(bridge, "blocks.1.hook_resid_pots")
    assert not bridge.cfg.use_hook_mlp_in  # which reading it switches on for a moment


@pytest.mark.parametrize("name", ["resid_post.1", "layers.1", "blocks.1.hook_resid_post"])
def test_short_names_mean_the_same(name: str) -> None:
    assert str(Place.of(name)) == "blocks.1.hook_resid_post"


@pytest.mark.parametrize(
    ("name", "processing", "message"),
    [
        ("blocks.1.mlp.hook_in", {"fold_ln": True}, "fold_ln, .* here at blocks.1.ln2.hook_normalized"),
        ("blocks.1.attn.hook_z", {"fold_value_biases": True}, "as it is with fold_value_biases, which is not given"),
        ("transformer.h.1", CENTRED, "center_writing_weights cannot be given at 'transformer.h.1'"),
    ],
)
def test_processing_that_is_not_here_is_refused(name: str, processing: dict[str, Any], message: str) -> None:
    with pytest.raises(PlatformError, match=message):
        is_centred(name, processing)
    assert not is_centred(name, {"fold_ln": False, "device_map": "auto"})
