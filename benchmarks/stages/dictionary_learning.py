"""dictionary_learning's buffer, around a model that hands over rows which are there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from dictionary_learning.buffer import ActivationBuffer
from torch import Tensor

from benchmarks.stages import CONTEXT, CONTEXTS, WIDE, WIDE_BATCH, WIDE_BUFFER, Prepared, mixing, wide_rows


class RowModel:
    """What the buffer asks of nnsight: a trace, and what it saved."""

    dtype = torch.float32

    def __init__(self, rows: Iterator[Tensor]) -> None:
        self.rows = rows
        self.inputs = Saved(((), {"attention_mask": torch.ones(CONTEXTS, CONTEXT)}))
        self.output: Any = None

    def trace(self, *args: Any, **kwargs: Any) -> AbstractContextManager[None]:
        self.output = Saved(next(self.rows).view(CONTEXTS, CONTEXT, WIDE))
        return nullcontext()


class Saved(SimpleNamespace):
    def __init__(self, value: Any) -> None:
        super().__init__(value=value, stop=lambda: None)

    def save(self) -> Saved:
        return self


def buffer(device: str) -> Prepared:
    def run() -> tuple[int, Callable[[], float]]:
        model = RowModel(wide_rows())
        shuffled = ActivationBuffer(
            iter(lambda: "", None), model, model, d_submodule=WIDE, n_ctxs=WIDE_BUFFER // CONTEXT, ctx_len=CONTEXT,
            refresh_batch_size=CONTEXTS, out_batch_size=WIDE_BATCH,
        )  # fmt: skip
        served = []
        try:
            while True:
                served.append(next(shuffled)[:, 0].clone())
        except StopIteration:  # it drops what it holds when the data ends
            return mixing(served)

    return run
