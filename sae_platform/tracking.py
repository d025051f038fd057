"""Statistics of training, kept on the SAE's device and read only when they are logged."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_platform.activations import Batch
from sae_platform.errors import PlatformError
from sae_platform.sae import StepOutput


class TrainingStatistics:
    """What happened since the last look (losses, L0, explained variance) and since each feature last fired.

    A feature is dead when it has not fired for `dead_window` tokens, and when it fired on less than the share
    `rare` of the tokens of the last full `sampling_window`.
    """

    def __init__(
        self, d_sae: int, dead_window: int, device: torch.device, rare: float = 0.0, sampling_window: int = 1
    ) -> None:
        self.tokens = 0
        self._dead_window = dead_window
        self._rare, self._sampling_window = rare, sampling_window
        self._sampled = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._sampled_tokens = 0
        self._is_rare = torch.zeros(d_sae, dtype=torch.bool, device=device)
        self._last_fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._counts = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._counted = 0
        self._first_bad = torch.zeros(2, dtype=torch.int64, device=device)  # steps: of the data, of the loss
        self._sums: dict[str, Tensor] = {}
        self._rows = 0

    def check_first(self, batch: Batch) -> None:
        """Refuse data that is not finite before anything is initialised from it."""
        if not batch.x.isfinite().all():
            raise PlatformError(_stopped(1, "activations of its batch hold"))

    @torch.no_grad()
    def add(self, step: int, batch: Batch, output: StepOutput, loss: Tensor) -> None:
        """Take in a step, counted from 1."""
        rows = len(batch.x)
        self.tokens += rows
        self._rows += rows
        self._counted += rows
        counts = output.features.counts()
        self._counts += counts
        self._last_fired.masked_fill_(counts > 0, self.tokens)
        if self._rare:
            self._sample(counts, rows)
        target, reconstruction = (
            part.to(torch.float32) if part.itemsize < 4 else part for part in (output.target, output.reconstruction)
        )  # half precision overflows in sums
        sums = {name: term.double() * rows for name, term in output.losses.items()}
        sums["loss"] = loss.double() * rows
        sums["l0"] = counts.sum().double()
        sums["error"] = (reconstruction - target).square().sum().double()
        sums["variance"] = (target - target.mean(0)).square().sum().double()
        for name, value in sums.items():
            self._sums[name] = self._sums[name] + value if name in self._sums else value.detach()
        bad = ~torch.stack([batch.x.isfinite().all(), loss.detach().isfinite()])
        self._first_bad = torch.where(bad & (self._first_bad == 0), step, self._first_bad)

    def window(self) -> dict[str, float]:
        """Means since the last call. PlatformError, naming step and cause, when something was not finite."""
        bad_data, bad_loss = self._first_bad.tolist()
        if bad_data and bad_data <= (bad_loss or bad_data):
            raise PlatformError(_stopped(bad_data, "activations of its batch hold"))
        if bad_loss:
            raise PlatformError(
                _stopped(bad_loss, "loss is") + " Its data was finite: try a lower lr, or a longer lr_warm_up_steps."
            )
        names = list(self._sums)
        values = dict(zip(names, torch.stack([self._sums[name] for name in names]).tolist(), strict=True))
        self._sums = {}
        error, variance = values.pop("error"), values.pop("variance")
        means = {name: value / self._rows for name, value in values.items()}
        self._rows = 0
        dead = int(self._dead().sum())
        return {
            **means,
            "explained_variance": 1 - error / variance if variance else float("nan"),
            "dead_features": float(dead),
            "dead_fraction": dead / len(self._last_fired),
        }

    def dead(self) -> Tensor:
        """The dead features, [n_dead] int64."""
        return self._dead().nonzero().flatten()

    def _dead(self) -> Tensor:
        return (self.tokens - self._last_fired > self._dead_window) | self._is_rare

    def _sample(self, counts: Tensor, rows: int) -> None:
        """Take in a step's counts; at the end of a sampling window, say who is rare."""
        self._sampled += counts
        self._sampled_tokens += rows
        if self._sampled_tokens >= self._sampling_window:
            self._is_rare = self._sampled < self._rare * self._sampled_tokens
            self._sampled.zero_()
            self._sampled_tokens = 0

    def log_sparsity(self) -> Tensor:
        """log10 of the share of tokens each feature fired on since the last call, [d_sae] (SAELens' definition)."""
        frequency = self._counts.double() / max(1, self._counted)
        self._counts.zero_()
        self._counted = 0
        return (frequency + 1e-10).log10()

    def state(self) -> dict[str, Tensor]:
        """What further statistics depend on, as tensors."""
        return {
            "last_fired": self._last_fired, "tokens": torch.tensor(self.tokens), "is_rare": self._is_rare,
            "sampled": self._sampled, "sampled_tokens": torch.tensor(self._sampled_tokens),
        }  # fmt: skip


def _stopped(step: int, what: str) -> str:
    return f"The run stopped: at step {step} the {what} NaN or infinity. No checkpoint was written after it."
