"""How a run looks while it goes on: a live line on a terminal, plain lines elsewhere, and a table at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from sae_platform.reporting import Display
from sae_platform.runs import RunDirectory

PLAIN_SECONDS = 5.0
STYLES = {"info": "dim", "warning": "yellow", "error": "bold red"}
TABLE_ROWS = (
    ("explained_variance", "explained variance", "{:.4f}"),
    ("fvu", "fraction of variance unexplained", "{:.4f}"),
    ("mse", "mean squared error (sum over d_in)", "{:.2f}"),
    ("cosine_similarity", "cosine similarity", "{:.4f}"),
    ("l0", "L0 (active features per token)", "{:.2f}"),
    ("dead_fraction", "dead features", "{:.2%}"),
    ("ce_loss_without_sae", "CE loss of the model alone", "{:.4f}"),
    ("ce_loss_with_sae", "CE loss with the SAE in it", "{:.4f}"),
    ("ce_loss_with_ablation", "CE loss with zeros instead", "{:.4f}"),
    ("ce_loss_with_mean_ablation", "CE loss with the mean instead", "{:.4f}"),
    ("ce_loss_score", "CE loss score", "{:.4f}"),
    ("ce_loss_score_mean", "CE loss score, mean ablation", "{:.4f}"),
    ("kl_div_with_sae", "KL divergence with the SAE", "{:.4f}"),
    ("kl_div_score", "KL divergence score", "{:.4f}"),
    ("mean_max_cosine", "true features recovered (mean max cosine)", "{:.4f}"),
)


class TrainingDisplay(Display):
    """Writes to stderr only."""

    def __init__(self, tokens: int) -> None:
        self.directory: Path | None = None
        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._tokens = tokens
        self._printed = -PLAIN_SECONDS
        self._progress: Progress | None = None
        self._speed = 0.0
        if not self._console.is_terminal:
            self._console.soft_wrap = True
        self._console.print("Opening the source and filling the shuffle buffer.", style=STYLES["info"])

    def start(self, run: Mapping[str, Any], directory: Path) -> None:
        self.directory = directory
        sae, source = run["sae"], run["source"]
        place = " of ".join(str(source[key]) for key in ("hook_name", "model") if source.get(key))
        self._console.print(
            f"{sae['architecture']} SAE, {sae['d_in']} -> {sae['d_sae']}, on {place or source['kind']}: {directory}"
        )
        if self._console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=self._console,
            )
            self._task = self._progress.add_task("", total=self._tokens)
            self._progress.start()

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        if "loss" not in metrics:
            self._speed = metrics.get("tokens_per_second_overall", self._speed)
            return
        tokens = int(metrics["tokens"])
        speed = metrics["tokens_per_second"]
        line = (
            f"loss {metrics['loss']:.3f}  L0 {metrics['l0']:.1f}  explained {metrics['explained_variance']:.3f}  "
            f"dead {metrics['dead_fraction']:.1%}  {speed:,.0f} tokens/s"
        )
        if self._progress:
            self._progress.update(self._task, completed=tokens, description=line)
        elif time.monotonic() - self._printed >= PLAIN_SECONDS or tokens == self._tokens:
            self._printed = time.monotonic()
            left = (self._tokens - tokens) / max(1.0, speed)
            self._console.print(f"step {step}  {tokens / self._tokens:4.0%}  {line}  {left:.0f} s left")

    def say(self, text: str, level: str) -> None:
        self._console.print(text, style=STYLES[level])

    def finish(self, state: str) -> None:
        if self._progress:
            self._progress.stop()

    def summary(self, directory: RunDirectory) -> None:
        """The final table."""
        results = directory.evaluation() or {}
        self._console.print(metrics_table(results, "Held-out evaluation"))
        self._console.print(f"Trained at {self._speed:,.0f} tokens/s, from opening the source to the last step.")
        self._console.print(f'Load it with SAE.load_from_disk("{directory.sae_path}").')


def metrics_table(results: Mapping[str, float | None], title: str) -> Table:
    """Evaluation results in the order people read them; what is not a number is left out."""
    table = Table(title=title, title_justify="left", show_header=False)
    for name, label, form in TABLE_ROWS:
        if results.get(name) is not None:
            table.add_row(label, form.format(results[name]))
    return table
