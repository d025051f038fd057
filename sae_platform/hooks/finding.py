"""Names of places in a model: TransformerLens' names, their short forms and module paths."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from sae_platform.errors import PlatformError, choices, nearest
from sae_platform.hooks.bridges import find_in_bridge
from sae_platform.hooks.parts import WHOLE, Centred, Columns, Normalized, OfEachHead, Part, eps_of, subtracts_mean
from sae_platform.hooks.points import HookPoint, ModuleHook, is_bridge
from sae_platform.hooks.sites import HEADS, INNER, SITES, Place, adds_up, is_centred

SHOWN = 10  # modules that an error names
READ = ("resid_pre", "resid_mid", "hook_mlp_in", "attn.hook_z", "mlp.hook_in", "mlp.hook_post")  # by a module
IN_A_LAYER = re.compile(r"\.\d+\.\w+$")
FIRST_NORM = ("ln_1", "input_layernorm", "self_attn_layer_norm")
SECOND_NORM = ("ln_2", "pre_mlp_layernorm", "post_attention_layernorm")
AFTER_ATTENTION = ("post_self_attn_layernorm",)  # norms of what is added to the residual stream
AFTER_MLP = ("post_feedforward_layernorm", "post_mlp_layernorm")
PARALLEL = ("use_parallel_residual", "parallel_attn")  # flags of models whose attention and MLP read the same stream
# Most exact first: BERT's and BLOOM's modules of these names add the residual stream, their last linear map does not.
ATTENTION = ("attention.output.dense", "self_attention.dense", "attn", "self_attn", "self_attention", "attention")
PROJECTION = ("attn.c_proj", "self_attn.o_proj", "attention.dense", "self_attention.dense", "self_attn.dense",
              "self_attn.out_proj", "attn.attention.out_proj")  # fmt: skip
MLP = ("mlp.dense_4h_to_h", "ffn.down_proj", "mlp", "block_sparse_moe", "output.dense", "fc2", "feed_forward", "ffn")
UP = ("mlp.c_fc", "mlp.gate_proj", "mlp.dense_h_to_4h", "mlp.fc1", "fc1", "intermediate.dense")
DOWN = ("mlp.c_proj", "mlp.down_proj", "mlp.dense_4h_to_h", "mlp.fc2", "fc2", "output.dense")
INTERLEAVED = ("gpt_neox", "bloom")  # model types that hold query, key and value of one head after another's


def find_hook(model: Any, name: str, processing: Mapping[str, Any] | None = None) -> HookPoint:
    """The place that `name` means. PlatformError with the nearest names when there is none.

    `processing` are the settings by which TransformerLens would process the weights of the model, of which
    `center_writing_weights` is given: activations on the residual stream of a model with LayerNorms come without their
    mean. PlatformError where another would change the activations at this place.
    """
    if is_bridge(model):
        return find_in_bridge(model, name, processing or {})
    centred = is_centred(name, processing or {})
    if (place := Place.of(name)) and hasattr(model, "config"):
        block = _block(model, place, name)
        point = _in_block(model, block, place.site, name)
        has_layer_norm = any(map(subtracts_mean, block.modules()))
        return replace(point, part=Centred()) if centred and has_layer_norm else point
    module = _modules(model).get(name)
    if module is None:
        raise _unknown(model, name)
    return ModuleHook(module)


def _block(model: Any, place: Place, name: str) -> nn.Module:
    layers = _blocks(model)
    if place.layer >= len(layers):
        raise _unknown(model, name)
    return layers[place.layer]


def _blocks(model: Any) -> nn.ModuleList:
    count = model.config.get_text_config().num_hidden_layers
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else None  # beside which a model may have others
    for whole in (decoder, model.base_model):
        for module in whole.modules() if isinstance(whole, nn.Module) else ():
            if isinstance(module, nn.ModuleList) and len(module) == count:
                return module
    raise PlatformError(f"{type(model).__name__} has no list of {count} layers; name the hook by the path of a module.")


def _in_block(model: Any, block: nn.Module, site: str, name: str) -> ModuleHook:
    """The place of a block that TransformerLens calls `site`."""
    parts = dict(block.named_modules(remove_duplicate=False))
    side: Any = "input" if site in READ else "output"
    if site in ("resid_pre", "resid_post"):
        return ModuleHook(block, side)
    for candidate, part in _candidates(model, parts, site).items():
        if candidate in parts:
            carried_by = block if site == "resid_mid" else None
            return ModuleHook(parts[candidate], side, part, carried_by)
    inner = ", ".join(sorted(path for path, _ in block.named_children()))
    raise PlatformError(
        f"{type(model).__name__} has no {name!r}: nothing in its layers is known to be that place. "
        f"Name a module by its path instead; a layer holds {inner}."
    )


def _candidates(model: Any, parts: Mapping[str, nn.Module], site: str) -> dict[str, Part]:
    """Paths in a block that may be this place, with the part of the tensor there."""
    config = model.config.get_text_config()
    if site in ("resid_mid", "attn_out", "mlp_out") and not adds_up(config, site):
        return {}
    normalizes_outputs = "post_feedforward_layernorm" in parts  # as Gemma 2 and OLMo 2 do before adding to the stream
    second_norm = ("pre_feedforward_layernorm",) if normalizes_outputs else SECOND_NORM
    if site in HEADS and site != "attn.hook_z":
        return _projections(config, site[-1])
    if site.endswith("hook_normalized"):
        norms = FIRST_NORM if site.startswith("ln1") else second_norm
        return {path: Normalized(parts[path]) for path in norms if path in parts and eps_of(parts[path]) is not None}
    both = normalizes_outputs or "pre_mlp_layernorm" in parts
    paths: dict[str, tuple[str, ...]] = {
        "attn.hook_z": PROJECTION, "mlp.hook_in": ("mlp",), "mlp.hook_pre": UP, "mlp.hook_post": DOWN,
        "attn_out": (*AFTER_ATTENTION, *(("post_attention_layernorm",) if both else ATTENTION)),
        "mlp_out": (*AFTER_MLP, *MLP),
    }  # fmt: skip
    if site in ("resid_mid", "hook_mlp_in"):
        parallel = any(getattr(config, flag, False) for flag in PARALLEL)
        paths[site] = () if parallel else (*second_norm, "mlp") if normalizes_outputs else second_norm
    return dict.fromkeys(paths[site], WHOLE)


def _projections(config: Any, which: str) -> dict[str, Part]:
    """Where query, key or value are computed: by a matrix of their own, or by one for all three."""
    own = (f"self_attn.{which}_proj", f"attn.{which}_proj", f"attn.attention.{which}_proj")
    found: dict[str, Part] = dict.fromkeys(own, WHOLE)
    place, heads = "qkv".index(which), config.num_attention_heads
    if config.model_type == "gpt2":
        width = config.hidden_size
        found["attn.c_attn"] = Columns(place * width, (place + 1) * width)
    if config.model_type in INTERLEAVED:
        found |= dict.fromkeys(
            ("attention.query_key_value", "self_attention.query_key_value"), OfEachHead(heads, place)
        )
    if config.model_type == "phi3":
        d_head = getattr(config, "head_dim", None) or config.hidden_size // heads
        ends = [0, heads, heads + config.num_key_value_heads, heads + 2 * config.num_key_value_heads]
        found["self_attn.qkv_proj"] = Columns(ends[place] * d_head, ends[place + 1] * d_head)
    return found


def _modules(model: Any) -> dict[str, nn.Module]:
    """Every module before the head, by its path in the model and by its path in the base model."""
    base = getattr(model, "base_model", model)
    inside = set(base.modules())
    named = {path: module for path, module in model.named_modules() if module in inside}
    return {path: module for path, module in {**dict(base.named_modules()), **named}.items() if path}


def _unknown(model: Any, name: str) -> PlatformError:
    if not hasattr(model, "config"):
        paths = _modules(model)
        return PlatformError(
            f"{type(model).__name__} has no module {name!r}.{nearest(name, paths)} "
            f"It has {choices(list(paths)[:SHOWN])}."
        )
    count = model.config.get_text_config().num_hidden_layers
    aliases = [str(Place(layer, site)) for layer in range(count) for site in SITES]
    inner = [str(Place(layer, site)) for layer in range(count) for site in INNER]
    short = [f"{site}.{layer}" for layer in range(count) for site in SITES]
    paths = _modules(model)
    example = next((path for path in reversed(paths) if IN_A_LAYER.search(path)), "embeddings")
    return PlatformError(
        f"{type(model).__name__} has no hook {name!r}.{nearest(name, [*aliases, *short, *inner, *paths])} "
        f"Its layers are 0 to {count - 1}: for example {aliases[2]}, resid_pre.{count - 1}, "
        f"mlp_out.{count - 1}, or a module path such as {example}."
    )
