"""An SAE in training: its optimizer, coefficients and statistics, one batch at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from sae_platform.activations import Batch
from sae_platform.components import SAEConfig
from sae_platform.config import RunConfig, TrainingConfig
from sae_platform.errors import PlatformError
from sae_platform.sae import SAE, StepOutput, StepState
from sae_platform.sparse import Workspace
from sae_platform.tracking import TrainingStatistics

DEAD_REFRESH_STEPS = 10  # how often the list of dead features is brought to the host


class Trainee:
    """What a run trains, started from its first batch."""

    def __init__(self, run: RunConfig, first: Batch) -> None:
        """PlatformError when there is no memory for the SAE, or when the batch is not finite."""
        self.settings = run.training
        self.sae = built(run.sae).train()
        self.stats = TrainingStatistics(
            self.sae.d_sae, self.settings.dead_feature_window, first.x.device,
            self.settings.dead_feature_threshold, self.settings.feature_sampling_window,
        )  # fmt: skip
        self.stats.check_first(first)
        self.sae.initialise(first.x)
        self.optimizer = torch.optim.Adam(
            self.sae.parameters(), lr=0.0, betas=self.settings.adam_betas, eps=self.settings.adam_eps, fused=True
        )
        self.step = 0
        self.rates: dict[str, float] = {}  # learning rate and coefficients of the last step
        self._coefficients = self.sae.coefficients()
        self._dead: Tensor | None = None
        self._workspace = Workspace()

    def train(self, batch: Batch) -> None:
        """One step."""
        settings = self.settings
        lr = self.optimizer.param_groups[0]["lr"] = learning_rate(settings, self.step)
        warmed = {term: coefficient.at(self.step) for term, coefficient in self._coefficients.items()}
        self.rates = {"learning_rate": lr, **{f"{term}_coefficient": value for term, value in warmed.items()}}

        state = StepState(self.step, warmed, self._dead, settings.sparse_below, self._workspace, settings.precision)
        output, loss = take_step(self.sae, self.optimizer, batch, state, settings.clip_grad_norm)

        self.step += 1
        self.stats.add(self.step, batch, output, loss)
        if self.step % DEAD_REFRESH_STEPS == 0:
            self._dead = self.stats.dead()


def learning_rate(settings: TrainingConfig, step: int) -> float:
    """The learning rate of a step, from 0 on: linear warm-up, constant or cosine (to a tenth), linear decay to 0."""
    steps = settings.steps
    decay = steps // 5 if settings.lr_decay_steps is None else settings.lr_decay_steps
    factor = min(1.0, (step + 1) / max(1, settings.lr_warm_up_steps), (steps - step) / max(1, decay))
    if settings.lr_schedule == "cosine":
        factor *= 0.55 + 0.45 * math.cos(math.pi * min(1.0, step / max(1, steps - decay)))
    return settings.lr * factor


def take_step(
    sae: SAE, optimizer: torch.optim.Optimizer, batch: Batch, state: StepState, clip_grad_norm: float
) -> tuple[StepOutput, Tensor]:
    """One step of a fused optimizer, with gradients clipped to a norm as by `clip_grad_norm_` (0: not clipped).

    Returns what the step computed and its loss. The optimizer divides by `grad_scale` while it reads the gradients,
    which saves a pass over them.
    """
    optimizer.zero_grad()
    output = sae.step(batch, state)
    loss = torch.stack(list(output.losses.values())).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    if clip_grad_norm:
        norm = nn.utils.get_total_norm([p.grad for p in sae.parameters() if p.grad is not None])
        optimizer.grad_scale = ((norm + 1e-6) / clip_grad_norm).clamp_min(1.0).float()  # type: ignore[attr-defined]
        optimizer.found_inf = torch.zeros_like(norm, dtype=torch.float32)  # type: ignore[attr-defined]
    optimizer.step()
    sae.after_step()
    return output, loss


def built(cfg: SAEConfig) -> SAE:
    """An untrained SAE. PlatformError when there is no memory for it."""
    try:
        return cfg.build()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        raise PlatformError(f"Cannot make an SAE of {cfg.d_in} x {cfg.d_sae} on {cfg.device}: {reason}") from error
