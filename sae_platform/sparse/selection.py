"""Find the few entries that count in a chunk of pre-activations [rows, d_sae].

Neighbouring columns form groups. One pass finds the largest of each group, and only groups whose largest counts are
looked into. That is exact, since no entry is larger than the largest of its group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_platform.sparse.features import SparseFeatures
from sae_platform.sparse.support import Support

GROUP = 32  # columns
CROWDED = 0.2  # share of groups with something in them, from which on it is faster to look at every column


def largest(pre: Tensor, k: int) -> SparseFeatures:
    """The k largest entries of each row, in no order. Of equal ones any may be chosen, as by torch.topk."""
    rows, d_sae = pre.shape
    if not _groups_pay(pre) or 4 * k * GROUP > d_sae:
        top = pre.topk(k, dim=-1, sorted=False)
        return SparseFeatures.fixed(top.values, top.indices, d_sae)
    grouped = pre.view(-1, GROUP)
    groups = d_sae // GROUP
    chosen = grouped.amax(-1).view(rows, groups).topk(k, dim=-1, sorted=False).indices
    first = torch.arange(0, rows * groups, groups, device=pre.device)[:, None]
    top = grouped.index_select(0, (chosen + first).flatten()).view(rows, -1).topk(k, dim=-1, sorted=False)
    indices = chosen.gather(-1, top.indices // GROUP) * GROUP + top.indices % GROUP
    return SparseFeatures.fixed(top.values, indices, d_sae)


def positive(pre: Tensor) -> SparseFeatures:
    """The entries above zero."""
    rows, d_sae = pre.shape
    if not _groups_pay(pre):
        return SparseFeatures.where(pre > 0, pre)
    grouped = pre.view(-1, GROUP)
    hit = (grouped.amax(-1) > 0).nonzero().squeeze(-1)
    if len(hit) > CROWDED * len(grouped):
        return SparseFeatures.where(pre > 0, pre)
    candidates = grouped.index_select(0, hit).flatten()
    kept = (candidates > 0).nonzero().squeeze(-1)
    places = hit[kept // GROUP] * GROUP + kept % GROUP
    offsets = torch.searchsorted(places, torch.arange(0, rows * d_sae + 1, d_sae, device=pre.device))
    return SparseFeatures(candidates[kept], Support(places % d_sae, offsets, d_sae))


def _groups_pay(pre: Tensor) -> bool:
    return pre.device.type == "cpu" and pre.numel() > 0 and pre.shape[-1] % GROUP == 0 and pre.is_contiguous()
