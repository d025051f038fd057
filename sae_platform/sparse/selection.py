"""Find the few entries that count in a chunk of pre-activations [rows, d_sae].

Columns form groups. One pass finds the largest of each group, and only groups whose largest counts are looked into.
That is exact, since no entry is larger than the largest of its group.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_platform.sparse.features import SparseFeatures
from sae_platform.sparse.support import Support

SPREAD = 16  # columns of a group for `largest`, d_sae / 16 apart
GROUP = 32  # columns of a group for `positive`, side by side
CROWDED = 0.2  # share of groups with something in them, from which on it is faster to look at every column


def largest(pre: Tensor, k: int) -> SparseFeatures:
    """The k largest entries of each row, in no order. Of equal ones any may be chosen, as by torch.topk."""
    rows, d_sae = pre.shape
    if not _groups_pay(pre, SPREAD) or 4 * k * SPREAD > d_sae:
        top = pre.topk(k, dim=-1, sorted=False)
        return SparseFeatures.fixed(top.values, top.indices, d_sae)
    groups = d_sae // SPREAD
    grouped = pre.view(rows, SPREAD, groups)
    chosen = grouped.amax(1).topk(k, dim=-1, sorted=False).indices
    candidates = grouped.gather(-1, chosen[:, None, :].expand(-1, SPREAD, -1)).view(rows, -1)
    top = candidates.topk(k, dim=-1, sorted=False)
    indices = chosen.gather(-1, top.indices % k) + top.indices // k * groups
    return SparseFeatures.fixed(top.values, indices, d_sae)


def positive(pre: Tensor) -> SparseFeatures:
    """The entries above zero."""
    rows, d_sae = pre.shape
    if not _groups_pay(pre, GROUP):
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


def _groups_pay(pre: Tensor, size: int) -> bool:
    return pre.device.type == "cpu" and pre.numel() > 0 and pre.shape[-1] % size == 0 and pre.is_contiguous()
