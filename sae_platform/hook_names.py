"""Names of places in a model: TransformerLens aliases, their short forms and module paths."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from sae_platform.errors import PlatformError, choices, nearest
from sae_platform.hooks import HookPoint

SHOWN = 10  # modules that an error names
SITES = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")
HEADS, MLP_INPUT = "attn.hook_z", "mlp.hook_in"  # what attention's output projection and the MLP read
ALIAS = re.compile(
    rf"blocks\.(?P<block>\d+)\.(?:hook_(?P<site>{'|'.join(SITES)})|(?P<inner>{HEADS}|{MLP_INPUT}))"
    rf"|(?P<short>{'|'.join(SITES)})\.(?P<at>\d+)|layers\.(?P<layer>\d+)"
)
READ = ("resid_pre", "resid_mid", HEADS, MLP_INPUT)  # sites that are the input of a module
IN_A_LAYER = re.compile(r"\.\d+\.\w+$")
SECOND_NORM = ("ln_2", "post_attention_layernorm")
PARALLEL = ("use_parallel_residual", "parallel_attn")  # flags of models whose attention and MLP read the same stream
# Most exact first: BERT's and BLOOM's modules of these names add the residual stream, their last linear map does not.
ATTENTION = ("attention.output.dense", "self_attention.dense", "attn", "self_attn", "self_attention", "attention")
PROJECTION = ("attn.c_proj", "self_attn.o_proj", "attention.dense", "self_attention.dense", "self_attn.dense",
              "self_attn.out_proj", "attn.attention.out_proj")  # fmt: skip
MLP = ("mlp.dense_4h_to_h", "mlp", "block_sparse_moe", "output.dense", "fc2", "feed_forward", "ffn")


def find_hook(model: Any, name: str) -> HookPoint:
    """The place that `name` means. PlatformError with the nearest names when there is none."""
    if (alias := ALIAS.fullmatch(name)) and hasattr(model, "config"):
        layer = int(alias["block"] or alias["at"] or alias["layer"])
        layers = _blocks(model)
        if layer >= len(layers):
            raise _unknown(model, name)
        return _in_block(model, layers[layer], alias["site"] or alias["inner"] or alias["short"] or "resid_post", name)
    module = _modules(model).get(name)
    if module is None:
        raise _unknown(model, name)
    return HookPoint(module)


def _blocks(model: Any) -> nn.ModuleList:
    count = model.config.get_text_config().num_hidden_layers
    for module in model.base_model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return module
    raise PlatformError(f"{type(model).__name__} has no list of {count} layers; name the hook by the path of a module.")


def _in_block(model: Any, block: nn.Module, site: str, name: str) -> HookPoint:
    """The place of a block that TransformerLens calls `site`."""
    parts = dict(block.named_modules(remove_duplicate=False))
    if site in ("resid_pre", "resid_post"):
        return HookPoint(block, "input" if site in READ else "output")
    for candidate in _candidates(model, set(parts), site):
        if candidate in parts:
            return HookPoint(parts[candidate], "input" if site in READ else "output")
    inner = ", ".join(sorted(path for path, _ in block.named_children()))
    raise PlatformError(
        f"{type(model).__name__} has no {name!r}: nothing in its layers is that place. "
        f"Name a module by its path instead; a layer holds {inner}."
    )


def _candidates(model: Any, parts: set[str], site: str) -> tuple[str, ...]:
    if site == HEADS:
        return PROJECTION
    if site == MLP_INPUT:
        return ("mlp",)
    normalises_outputs = "post_feedforward_layernorm" in parts  # as Gemma 2 and OLMo 2 do before adding to the stream
    if site == "attn_out":
        return ("post_attention_layernorm",) if normalises_outputs else ATTENTION
    if site == "mlp_out":
        return ("post_feedforward_layernorm",) if normalises_outputs else MLP
    if any(getattr(model.config, flag, False) for flag in PARALLEL):
        return ()
    return ("pre_feedforward_layernorm", "mlp") if normalises_outputs else SECOND_NORM


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
    aliases = [f"blocks.{layer}.hook_{site}" for layer in range(count) for site in SITES]
    short = [f"{site}.{layer}" for layer in range(count) for site in SITES]
    paths = _modules(model)
    example = next((path for path in reversed(paths) if IN_A_LAYER.search(path)), "embeddings")
    return PlatformError(
        f"{type(model).__name__} has no hook {name!r}.{nearest(name, [*aliases, *short, *paths])} "
        f"Its layers are 0 to {count - 1}: for example {aliases[2]}, resid_pre.{count - 1}, "
        f"mlp_out.{count - 1}, or a module path such as {example}."
    )
