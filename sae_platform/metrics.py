"""What is measured of an SAE, with its definitions; sums are kept in float64 over any number of batches."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

VERSION = 1  # of the definitions on this page; recorded with every evaluation


class ReconstructionSums:
    """Reconstruction quality over rows x [n, d] and their reconstructions y [n, d].

    - mse: mean over rows of the sum over d of (x - y)^2
    - fvu: sum of (x - y)^2 over sum of (x - mean(x))^2, the mean being over all rows: fraction of variance unexplained
    - explained_variance: 1 - fvu
    - cosine_similarity: mean over rows of cos(x, y); two zero rows count as 1, a zero and a nonzero row as 0
    """

    def __init__(self) -> None:
        self._rows = 0
        self._origin: Tensor | None = None  # sums of squares are taken around the first row, against cancellation

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in a batch."""
        x, y = x.double(), y.double()
        if self._origin is None:
            self._origin = x[0]
            self._sum = torch.zeros_like(self._origin)
            self._squares = self._error = self._cosine = x.new_zeros(())
        centred = x - self._origin
        self._rows += len(x)
        self._sum = self._sum + centred.sum(0)
        self._squares = self._squares + centred.square().sum()
        self._error = self._error + (x - y).square().sum()
        norms = x.norm(dim=-1), y.norm(dim=-1)
        cosine = (x * y).sum(-1) / (norms[0] * norms[1]).clamp_min(1e-300)
        cosine = torch.where((norms[0] == 0) & (norms[1] == 0), 1.0, cosine)
        self._cosine = self._cosine + cosine.sum()

    def result(self) -> dict[str, float]:
        """The metrics by name."""
        if self._origin is None:
            raise ValueError("no rows were added")
        variance = (self._squares - self._sum.square().sum() / self._rows).item()
        error = self._error.item()
        fvu = error / variance if variance > 0 else math.inf if error > 0 else 0.0
        return {
            "explained_variance": 1 - fvu,
            "fvu": fvu,
            "mse": error / self._rows,
            "cosine_similarity": self._cosine.item() / self._rows,
        }


class SparsitySums:
    """How often features are active over rows of features [n, d_sae]; active means not zero.

    - l0: mean number of active features in a row
    - density [d_sae]: share of rows in which each feature is active
    - dead_fraction: share of features that are active in no row
    """

    def __init__(self, d_sae: int) -> None:
        self._rows = 0
        self._counts = torch.zeros(d_sae, dtype=torch.int64)

    def add(self, counts: Tensor, rows: int) -> None:
        """Take in a batch: the number of its rows in which each feature is active, [d_sae]."""
        self._rows += rows
        self._counts += counts.cpu()

    @property
    def density(self) -> Tensor:
        """Share of rows in which each feature is active, [d_sae] float64."""
        return self._counts.double() / self._rows

    def result(self) -> dict[str, float]:
        """The metrics by name."""
        return {
            "l0": self._counts.sum().item() / self._rows,
            "dead_fraction": (self._counts == 0).double().mean().item(),
        }


@dataclass(frozen=True)
class Predictions:
    """Next-token predictions of a run of the model: log-probabilities [n, vocabulary] and what came next [n]."""

    log_probabilities: Tensor
    targets: Tensor

    @classmethod
    def of(cls, logits: Tensor, tokens: Tensor, counted: Tensor) -> Predictions:
        """From logits [contexts, size, vocabulary]: the prediction at position t is of token t + 1, and counts where
        `counted` [contexts, size] holds for the token predicted."""
        chosen = counted[:, 1:]
        targets = tokens[:, 1:][chosen].to(logits.device)
        return cls(F.log_softmax(logits[:, :-1][chosen.to(logits.device)].float(), dim=-1), targets)

    def cross_entropy(self) -> Tensor:
        """Sum over predictions of -log p(target), in nats."""
        return -self.log_probabilities.gather(-1, self.targets[:, None]).double().sum()

    def divergence_from(self, clean: Predictions) -> Tensor:
        """Sum over predictions of KL(clean || self), in nats."""
        return (
            F.kl_div(self.log_probabilities, clean.log_probabilities, reduction="none", log_target=True).double().sum()
        )


def recovered(ablated: float, with_sae: float, clean: float) -> float:
    """(ablated - with_sae) / (ablated - clean): 1 when the SAE changes nothing, 0 when it is as bad as the ablation.

    NaN when the ablation does no harm, since nothing can be recovered then.
    """
    return (ablated - with_sae) / (ablated - clean) if ablated != clean else math.nan


def without_nan(results: Mapping[str, float]) -> dict[str, float | None]:
    """The metrics for JSON, which has no word for NaN and infinity: they become null."""
    return {name: value if math.isfinite(value) else None for name, value in results.items()}
