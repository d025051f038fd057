"""True features: directions far from each other, and how well a decoder has found them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

SPREADING_STEPS = 20


def spread_directions(count: int, width: int, generator: torch.Generator) -> Tensor:
    """Random unit vectors [count, width], pushed away from those they are closest to."""
    directions = F.normalize(torch.randn(count, width, generator=generator), dim=1)
    for _ in range(SPREADING_STEPS if count > 1 else 0):
        cosines = (directions @ directions.T).fill_diagonal_(0)
        push = (cosines / cosines.abs().max()) ** 9
        directions = F.normalize(directions - 0.1 * push @ directions, dim=1)
    return directions


def mean_max_cosine(true_features: Tensor, W_dec: Tensor) -> float:
    """Mean over true features [n, d_in] of the largest cosine to a row of W_dec [d_sae, d_in]: 1 when all are found."""
    rows = F.normalize(W_dec.detach().to("cpu", torch.float32), dim=1)
    return (F.normalize(true_features.float(), dim=1) @ rows.T).max(dim=1).values.mean().item()
