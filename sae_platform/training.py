"""Train a sparse autoencoder: the loop, readable top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from sae_platform import checkpoints
from sae_platform.activations import ActivationSource, Batch
from sae_platform.ahead import ahead
from sae_platform.buffer import ShuffleBuffer, capacity_of
from sae_platform.components import SAEConfig
from sae_platform.config import RunConfig, TrainingConfig, read_run
from sae_platform.devices import usable_device
from sae_platform.errors import Interrupted, PlatformError
from sae_platform.evaluation import model_metrics, preservation_while_training, preserves
from sae_platform.finishing import finish
from sae_platform.reporting import Display, Reports
from sae_platform.runs import RunDirectory
from sae_platform.signals import StopSignals
from sae_platform.sparse import matmul_precision
from sae_platform.stepping import Trainee


def train(
    run: RunConfig | str | Path | None = None,
    runs: str | Path = "runs",
    name: str | None = None,
    display: Display | None = None,
) -> RunDirectory:
    """Train, evaluate and save the SAE that a run (or run file; none: the embedded default) describes.

    Returns the run directory, made under `runs`. `display` is a logger that is called in this thread. The same run on
    the same CPU gives the same bits, unless several train in one process at once. Raises PlatformError for bad
    input before anything is written, and when the data or the loss stop being finite, naming the step; `Interrupted`
    after SIGINT or SIGTERM, with a checkpoint on disk once the first step is done.
    """
    run = run if isinstance(run, RunConfig) else read_run(run)
    with torch.random.fork_rng(devices=[]), StopSignals() as signals:
        torch.manual_seed(run.training.seed)
        return _train(run, Path(runs), name, display, signals)


def _train(run: RunConfig, runs: Path, name: str | None, display: Display | None, signals: StopSignals) -> RunDirectory:
    started = time.perf_counter()
    settings = run.training
    signals.at_once = "Stopped before the first step; nothing was written."
    device = usable_device(settings.device)
    source = run.source.build(settings.seed)
    if next(source.harvest("held_out"), None) is None:
        raise PlatformError("The activation source has no held-out rows to evaluate on.")
    run = run.model_copy(update={"sae": fitted(run.sae, source, settings)})
    loggers = [config.build() for config in run.loggers]
    notices: list[str] = []
    if run.evaluation.every and not preserves(source):
        notices.append("evaluation.every does nothing: the source has no causal language model.")
    with matmul_precision(settings.precision), closing(shuffled(source, settings, notices, device)) as batches:
        first = next(batches)

        trainee = Trainee(run, first)
        stats = trainee.stats

        signals.at_once = None
        writer = RunDirectory.create(runs, name, run.to_toml(), run.sae.architecture, settings.tokens)
        with Reports(writer, loggers, display, run, notices) as reports:
            for batch in chain([first], batches):
                trainee.train(batch)
                step = trainee.step
                stopped = signals.received
                due = settings.checkpoint_every and step % settings.checkpoint_every == 0
                if step % settings.log_every == 0 or step == settings.steps or due or stopped:
                    reports.log(step, stats.tokens, {**stats.window(), **trainee.rates})
                every = run.evaluation.every
                if every and step % every == 0 and step != settings.steps and not stopped:
                    reports.measured(
                        step, partial(preservation_while_training, trainee.sae, source, batch.x, run.evaluation)
                    )
                if due or stopped:
                    path = checkpoints.save_checkpoint(
                        writer.checkpoints_path, step, stats.tokens, trainee.sae, trainee.optimizer,
                        {**batches.state(), **stats.state()}, stats.log_sparsity(), settings.keep_checkpoints,
                    )  # fmt: skip
                    reports.say(f"Checkpoint {path}.")
                if stopped:
                    load = f'SAE.load_from_disk("{path / "sae"}")'
                    raise Interrupted(f"Stopped after step {step}. Load what there is with {load}.", stopped)
            reports.trained(step, stats.tokens, time.perf_counter() - started)
            results = finish(reports, run, trainee.sae, source, batch.x, signals)
            reports.measured(step, partial(model_metrics, results))
    return RunDirectory(writer.path)


def fitted(cfg: SAEConfig, source: ActivationSource, settings: TrainingConfig) -> SAEConfig:
    """The SAE's configuration for this source: its width, its metadata, the run's device and dtype."""
    if cfg.d_in not in (None, source.d_in):
        raise PlatformError(
            f"sae.d_in is {cfg.d_in}, but the activations of this source have width {source.d_in}. "
            "Leave d_in out: a run takes it from its source."
        )
    given = {"d_in": source.d_in, "metadata": source.metadata, "device": settings.device, "dtype": settings.dtype}
    return type(cfg)(**{**cfg.model_dump(), **given})


def shuffled(
    source: ActivationSource, settings: TrainingConfig, notices: list[str], device: torch.device
) -> ShuffleBuffer:
    """The run's rows through its shuffle buffer; PlatformError when the buffer's size makes no sense."""
    stream: Iterator[Batch] = activation_stream(source, settings.tokens, notices, device)
    if torch.empty(0, device=source.device).device != device:  # cuda is cuda:0
        stream = ahead(stream)
    return ShuffleBuffer(stream, buffer_rows(source, settings), settings.batch_size, settings.seed)


def buffer_rows(source: ActivationSource, settings: TrainingConfig) -> int:
    """How many rows of this source the run's buffer holds; those that never come need no room."""
    capacity = capacity_of(settings.buffer, source.d_in * source.dtype.itemsize + 16)  # with token and position
    return max(settings.batch_size, min(capacity, settings.tokens)) if capacity >= settings.batch_size else capacity


def activation_stream(source: ActivationSource, rows: int, notices: list[str], device: torch.device) -> Iterator[Batch]:
    """Exactly `rows` training rows; where the data ends a new epoch begins, and leaves a notice."""
    epoch = 0
    while rows:
        found = 0
        for batch in source.harvest("train", epoch):
            columns = (None if part is None else part[:rows] for part in (batch.tokens, batch.positions))
            yield Batch(batch.x[:rows].to(device), *columns)
            found += len(batch.x)
            rows -= min(rows, len(batch.x))
            if not rows:
                return
        if not found:
            raise PlatformError("The activation source gave no training rows.")
        epoch += 1
        notices.append(f"The data ended after {found:,} activations; epoch {epoch + 1} begins.")
