"""One module a library: `buffer`, `harvest` and `end_to_end` prepare a stage on a device and give a function to run it.

That function returns how many tokens went through, and how to get a number that tells whether the work was the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

TINYPY = Path(__file__).parents[2] / "plugins/sae_platform_transformers/tinypy"
Prepared = Callable[[], tuple[int, Callable[[], float]]]

LAYER, D_IN, CONTEXT, CONTEXTS = 1, 192, 128, 16  # of the embedded model; contexts in one run of it
D_SAE, K, BATCH, LR = 3072, 32, 2048, 1e-3
BUFFER = 32_768  # rows
TOKENS = 131_072

WIDE = 768  # rows of the stage that shuffles alone
WIDE_ROWS, WIDE_BATCH, WIDE_BUFFER = 524_288, 4096, 65_536


def wide_rows() -> Iterator[Tensor]:
    """WIDE_ROWS rows as a model of 16 contexts would hand them over; row n holds n in its first column."""
    rows = CONTEXT * CONTEXTS
    base = torch.randn(rows, WIDE, generator=torch.Generator().manual_seed(0))
    for start in range(0, WIDE_ROWS, rows):
        x = base.clone()
        x[:, 0] = torch.arange(start, start + rows)
        yield x


def mixing(served: list[Tensor]) -> tuple[int, Callable[[], float]]:
    """How many rows were served, and by how many places a row was moved on average."""
    numbers = torch.cat(served).double()
    return len(numbers), lambda: (numbers - torch.arange(len(numbers))).abs().mean().item()
