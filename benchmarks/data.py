"""The same weights, activations and texts for every library, from a fixed seed."""

from __future__ import annotations

import random
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cases import SIZES, Case

DIRECTIONS, ACTIVE = 2048, 16  # of the mixture that activations are made of
LEVELS = {"standard": ("b_enc", -1), "jumprelu": ("threshold", 1), "gated": ("b_gate", -1)}  # what holds L0


@dataclass(frozen=True)
class Data:
    """Weights [d_sae, d_in] with rows of norm 1, batches [batch, d_in] of mean norm sqrt(d_in), and the pre-activation
    that `l0` features of a row exceed."""

    rows: Tensor
    batches: list[Tensor]
    level: float

    @torch.no_grad()
    def hold_l0(self, sae: Any, architecture: str) -> None:
        """Set the bias or threshold that lets `l0` features fire; nothing for topk."""
        if architecture in LEVELS:
            name, sign = LEVELS[architecture]
            getattr(sae, name).fill_(sign * self.level)


def data(case: Case, batches: int = 4, device: str = "cpu") -> Data:
    size = SIZES[case.size]
    generator = torch.Generator().manual_seed(0)
    rows = F.normalize(torch.randn(size.d_sae, size.d_in, generator=generator), dim=1)
    directions = F.normalize(torch.randn(DIRECTIONS, size.d_in, generator=generator), dim=1)
    made = [_mixture(directions, size.batch, generator) for _ in range(batches)]
    pre = (made[0][:64] @ rows.T).flatten()
    level = pre.topk(64 * case.l0).values.min().item()
    return Data(rows.to(device), [x.to(device) for x in made], level)


def _mixture(directions: Tensor, count: int, generator: torch.Generator) -> Tensor:
    number, d_in = directions.shape
    chosen = torch.randint(number, (count, ACTIVE), generator=generator)
    strengths = -torch.rand(count, ACTIVE, generator=generator).clamp_min(1e-9).log()
    x = F.embedding_bag(chosen, directions, per_sample_weights=strengths, mode="sum")
    x += 0.3 * torch.randn(count, d_in, generator=generator) / d_in**0.5
    return x * (d_in**0.5 / x.norm(dim=1).mean())


def texts() -> list[str]:
    """The source files of Python's standard library, in a fixed random order."""
    root = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(path for path in root.rglob("*.py") if "site-packages" not in path.parts)
    random.Random(0).shuffle(files)
    return [text for path in files if (text := path.read_text(encoding="utf-8", errors="replace")).strip()]
