"""How fast each stage of a run is on this machine: alone, and all of them together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count, cycle, islice, repeat

import torch
from torch import Tensor

from sae_platform.activations import Batch, LanguageModelSource
from sae_platform.buffer import ShuffleBuffer
from sae_platform.config import RunConfig
from sae_platform.devices import usable_device
from sae_platform.sparse import matmul_precision
from sae_platform.stepping import Trainee
from sae_platform.training import activation_stream, buffer_rows, fitted, shuffled

HELD = 8  # batches kept in memory for a stage that is measured without the stages before it
ENDLESS = 2**62  # tokens


@dataclass(frozen=True)
class Stage:
    """What was measured."""

    name: str
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.seconds


def measure_stages(run: RunConfig, seconds: float = 5.0) -> Iterator[Stage]:
    """The stages of a run, each measured for about so many seconds; nothing is written.

    `text`: documents to contexts of tokens; `model`: contexts to activations at the hook; `harvest`: both, or all that
    a source without a model does; `buffer`: shuffling rows that are in memory; `step`: training on rows that are in
    memory, from the first step on; `together`: all of it, through a small buffer that is full. Raises what `train`
    raises for a bad source, SAE, device or buffer.
    """
    with torch.random.fork_rng(devices=[]), matmul_precision(run.training.precision):
        torch.manual_seed(run.training.seed)
        yield from _measured(run, seconds)


def _measured(run: RunConfig, seconds: float) -> Iterator[Stage]:
    settings = run.training
    device = usable_device(settings.device)
    source = run.source.build(settings.seed)
    batch_size, capacity = settings.batch_size, buffer_rows(source, settings)
    shuffled(source, settings, [], device)  # refuses a buffer that makes no sense
    run = run.model_copy(
        update={
            "sae": fitted(run.sae, source, settings),
            "training": settings.model_copy(update={"tokens": ENDLESS, "buffer": HELD * batch_size}),
        }
    )
    if isinstance(source, LanguageModelSource):
        tokens = (contexts.tokens for epoch in count() for contexts in source.contexts("train", epoch))
        yield _timed("text", ((each.numel(), each) for each in tokens), seconds)
        held = cycle(list(islice(tokens, HELD)))
        yield _timed("model", ((each.numel(), source.activations(each)) for each in held), seconds)
    yield _timed("harvest", _rows_of(activation_stream(source, ENDLESS, [], device)), seconds)

    with closing(shuffled(source, run.training, [], device)) as batches:
        first = next(batches)
        yield _timed("buffer", _rows_of(ShuffleBuffer(repeat(first), capacity, batch_size, settings.seed)), seconds)

        trainee = Trainee(run, first)
        weight = next(trainee.sae.parameters())

        def trained(batch: Batch) -> tuple[int, Tensor]:
            trainee.train(batch)
            return len(batch.x), weight

        yield _timed("step", map(trained, cycle(list(islice(batches, HELD)))), seconds)
        yield _timed("together", map(trained, batches), seconds)


def _rows_of(batches: Iterator[Batch]) -> Iterator[tuple[int, Tensor]]:
    return ((len(batch.x), batch.x) for batch in batches)


def _timed(name: str, work: Iterator[tuple[int, Tensor]], seconds: float) -> Stage:
    """Endless work, of which each piece gives its number of tokens and something that is there when it is done."""
    made = next(work)[1]  # the first of anything is slow
    _wait_for(made)
    tokens, started = 0, time.perf_counter()
    while not tokens or time.perf_counter() - started < seconds:
        number, made = next(work)
        tokens += number
    _wait_for(made)
    return Stage(name, tokens, time.perf_counter() - started)


def _wait_for(tensor: Tensor) -> None:
    """Return when the device has computed it."""
    tensor.flatten()[:1].cpu()
