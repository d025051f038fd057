"""Everything a run says: to its directory (always), to its loggers and to the display."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from sae_platform.config import RunConfig
from sae_platform.errors import Interrupted
from sae_platform.loggers import Logger, LoggerFanOut
from sae_platform.runs import Ending, RunWriter


class Display(Logger):
    """A logger that people watch; unlike the others it is called in the run's own thread."""

    def say(self, text: str, level: str) -> None:
        """Show an event; `level` is info, warning or error."""


class Reports:
    """While entered, the run is on; leaving it says how it ended."""

    def __init__(
        self, writer: RunWriter, loggers: Sequence[Logger], display: Display | None, run: RunConfig, notices: list[str]
    ) -> None:
        self.writer = writer
        self._display = display
        self._run = run.model_dump(mode="json")
        self._notices = notices  # filled by the data stream
        self._loggers = LoggerFanOut(loggers, lambda text: self.say(text, "warning"))
        self._looked = time.perf_counter()
        self._tokens = 0

    def __enter__(self) -> Self:
        self._loggers.start(self._run, self.writer.path)
        if self._display:
            self._display.start(self._run, self.writer.path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        stopped = isinstance(error, (Interrupted, KeyboardInterrupt))
        state: Ending = "finished" if error is None else "interrupted" if stopped else "failed"
        try:
            self._loggers.close(state)
            if self._display:
                self._display.finish(state)
        finally:
            self.writer.finish(state, "" if error is None else str(error) or type(error).__name__)

    def log(self, step: int, tokens: int, metrics: Mapping[str, float]) -> None:
        """Record the metrics of a step, with the speed since the last record."""
        now = time.perf_counter()
        speed = (tokens - self._tokens) / max(1e-9, now - self._looked)
        self._looked, self._tokens = now, tokens
        while self._notices:
            self.say(self._notices.pop(0))
        self._record(step, {**metrics, "tokens_per_second": speed, "tokens": float(tokens)})
        self.writer.heartbeat(step, tokens)

    def measured(self, step: int, measure: Callable[[], Mapping[str, float]]) -> None:
        """Record what is measured besides training, whose speed does not suffer from it."""
        started = time.perf_counter()
        if metrics := measure():
            self._record(step, metrics)
        self._looked += time.perf_counter() - started

    def trained(self, step: int, tokens: int, seconds: float) -> None:
        """Record what the whole training took, from opening the source to the last step."""
        self._record(step, {"training_seconds": seconds, "tokens_per_second_overall": tokens / seconds})

    def say(self, text: str, level: str = "info") -> None:
        """Keep an event."""
        self.writer.event(text, level)
        if self._display:
            self._display.say(text, level)

    def _record(self, step: int, metrics: Mapping[str, float]) -> None:
        self.writer.record(step, metrics)
        self._loggers.log(step, metrics)
        if self._display:
            self._display.log(step, metrics)
