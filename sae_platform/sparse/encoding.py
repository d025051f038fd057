"""The affine encoder: its product with the batch, and the gradients that only the kept entries carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sae_platform.components import Precision
from sae_platform.sparse.features import DenseFeatures, SparseFeatures
from sae_platform.sparse.support import Support
from sae_platform.sparse.workspace import Workspace

CHUNK_ROWS = 1024


def selected_preactivations(
    x: Tensor,
    encoder: Tensor,
    b_enc: Tensor | None,
    b_dec: Tensor | None,
    select: Callable[[Tensor], SparseFeatures],
    *,
    scale: Tensor | None = None,
    chunk_rows: int = CHUNK_ROWS,
    workspace: Workspace | None = None,
    precision: Precision = "full",
) -> SparseFeatures:
    """The entries of (x - b_dec) @ encoder.T + b_enc that `select` keeps, with their exact gradients.

    x [rows, d_in], encoder rows [d_sae, d_in]. The dense product exists only for `chunk_rows` rows at a time, in one
    reused buffer that `select` may overwrite but not return; autograd keeps none of it. `select` sees the product times
    `scale` [d_sae], where it is given; what is returned is not scaled and does not depend on it. In bfloat16 the
    product is rounded, and the gradients are those of the rounded values.
    """
    workspace = workspace or Workspace()
    with torch.no_grad():
        centred = x if b_dec is None else x - b_dec
        seen, bias = _scaled(encoder, b_enc, scale, workspace)
        if precision == "bfloat16":
            centred, seen = centred.bfloat16(), seen.bfloat16()
            bias = None if bias is None else bias.bfloat16()
        buffer = workspace.take("preactivations", seen, min(chunk_rows, len(x)), len(encoder))
        parts = []
        for chunk in torch.split(centred, chunk_rows):
            out = buffer[: len(chunk)]
            if bias is None:
                torch.mm(chunk, seen.T, out=out)
            else:
                torch.addmm(bias, chunk, seen.T, out=out)
            parts.append(select(out))
        chosen = SparseFeatures.cat(parts)
        chosen = chosen.replace(chosen.values.to(encoder.dtype))
        if scale is not None:
            chosen = chosen.replace(chosen.values / chosen.at(scale))
    values: Tensor = _Encode.apply(chosen.values, x, encoder, b_enc, b_dec, chosen.support)  # type: ignore[no-untyped-call]
    return chosen.replace(values)


def dense_preactivations(
    x: Tensor, encoder: Tensor, b_enc: Tensor | None, b_dec: Tensor | None, precision: Precision = "full"
) -> DenseFeatures:
    """(x - b_dec) @ encoder.T + b_enc [rows, d_sae], whose backward pass makes no [rows, d_in] gradient for b_dec."""
    return DenseFeatures(_DenseEncode.apply(x, encoder, b_enc, b_dec, precision))  # type: ignore[no-untyped-call]


@contextmanager
def matmul_precision(precision: Precision) -> Iterator[None]:
    """While open, float32 products on CUDA run in full precision, or in TF32 for the other two settings.

    That is one switch for the process: open it around everything that should share it, not in threads of their own.
    """
    switch, full, fast = torch.backends.cuda.matmul, "ieee", "tf32"
    name = "fp32_precision"
    if not hasattr(switch, name):  # torch < 2.9
        name, full, fast = "allow_tf32", False, True  # type: ignore[assignment]
    before = getattr(switch, name)
    setattr(switch, name, full if precision == "full" else fast)
    try:
        yield
    finally:
        setattr(switch, name, before)


def _scaled(
    encoder: Tensor, b_enc: Tensor | None, scale: Tensor | None, workspace: Workspace
) -> tuple[Tensor, Tensor | None]:
    """Encoder and bias times a number for each feature: one pass over the weights instead of one over the product."""
    if scale is None:
        return encoder, b_enc
    scaled = torch.mul(encoder, scale[:, None], out=workspace.take("scaled encoder", encoder, *encoder.shape))
    return scaled, None if b_enc is None else b_enc * scale


class _Encode(torch.autograd.Function):
    """Attach to pre-activations that were computed without autograd the gradient of the affine map they came from."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        x: Tensor,
        encoder: Tensor,
        b_enc: Tensor | None,
        b_dec: Tensor | None,
        support: Support,
    ) -> Tensor:
        ctx.save_for_backward(x, encoder, b_dec)
        ctx.support = support
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, encoder, b_dec = ctx.saved_tensors
        support: Support = ctx.support
        grad = grad.contiguous()
        _, needs_x, needs_encoder, needs_b_enc, needs_b_dec, _ = ctx.needs_input_grad
        for_x = support.weighted_rows(grad, encoder) if needs_x else None
        for_encoder = support.outer(grad, x if b_dec is None else x - b_dec) if needs_encoder else None
        sums = support.feature_sums(grad) if needs_b_enc or needs_b_dec else None
        for_b_dec = -(sums @ encoder) if sums is not None and needs_b_dec else None
        return None, for_x, for_encoder, sums if needs_b_enc else None, for_b_dec, None


class _DenseEncode(torch.autograd.Function):
    """The affine map, with the gradient of b_dec from the sums of the gradient over rows."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, encoder: Tensor, b_enc: Tensor | None, b_dec: Tensor | None, precision: Precision
    ) -> Tensor:
        ctx.save_for_backward(x, encoder, b_dec)
        centred = x if b_dec is None else x - b_dec
        if precision != "bfloat16":
            return F.linear(centred, encoder, b_enc)
        return F.linear(centred.bfloat16(), encoder.bfloat16(), None if b_enc is None else b_enc.bfloat16()).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, encoder, b_dec = ctx.saved_tensors
        needs_x, needs_encoder, needs_b_enc, needs_b_dec, _ = ctx.needs_input_grad
        for_x = grad @ encoder if needs_x else None
        for_encoder = grad.T @ (x if b_dec is None else x - b_dec) if needs_encoder else None
        sums = grad.sum(0) if needs_b_enc or needs_b_dec else None
        for_b_dec = -(sums @ encoder) if sums is not None and needs_b_dec else None
        return for_x, for_encoder, sums if needs_b_enc else None, for_b_dec, None
