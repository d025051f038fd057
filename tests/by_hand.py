"""GPT-2's forward pass written out, with a function at every place that has a name."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

At = Callable[[str, Tensor], Tensor]  # the name of a place and the activations there, to what stands in for them


def gpt2_by_hand(model: Any, tokens: Tensor, at: At) -> Tensor:
    """Logits [contexts, size, vocabulary] of a GPT2LMHeadModel in evaluation mode."""
    body, size = model.transformer, tokens.shape[1]
    x = body.wte.weight[tokens] + body.wpe.weight[:size]
    causal = torch.full((size, size), -math.inf).triu(1)
    for layer, block in enumerate(body.h):

        def place(name: str, x: Tensor, layer: int = layer) -> Tensor:
            return at(f"blocks.{layer}.{name}", x)

        def normalized(x: Tensor, norm: Any, name: str) -> Tensor:
            centred = x - x.mean(-1, keepdim=True)
            scaled = centred / (centred.pow(2).mean(-1, keepdim=True) + norm.eps).sqrt()
            return place(f"{name}.hook_normalized", scaled) * norm.weight + norm.bias

        x = place("hook_resid_pre", x)
        attention, mlp = block.attn, block.mlp
        parts = (normalized(x, block.ln_1, "ln1") @ attention.c_attn.weight + attention.c_attn.bias).chunk(3, -1)
        q, k, v = (
            place(f"attn.hook_{name}", part).view(*tokens.shape, attention.num_heads, -1).transpose(1, 2)
            for name, part in zip("qkv", parts, strict=True)
        )
        pattern = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + causal).softmax(-1)
        z = place("attn.hook_z", (pattern @ v).transpose(1, 2).flatten(-2))
        x = place("hook_resid_mid", x + place("hook_attn_out", z @ attention.c_proj.weight + attention.c_proj.bias))
        read = place("mlp.hook_in", normalized(place("hook_mlp_in", x), block.ln_2, "ln2"))
        pre = place("mlp.hook_pre", read @ mlp.c_fc.weight + mlp.c_fc.bias)
        post = place("mlp.hook_post", F.gelu(pre, approximate="tanh"))
        x = place("hook_resid_post", x + place("hook_mlp_out", post @ mlp.c_proj.weight + mlp.c_proj.bias))
    return F.layer_norm(x, x.shape[-1:], body.ln_f.weight, body.ln_f.bias, body.ln_f.eps) @ model.lm_head.weight.T


def changing(place: str, change: Callable[[Tensor], Tensor]) -> At:
    """A change at one place."""
    return lambda name, x: change(x) if name == place else x
