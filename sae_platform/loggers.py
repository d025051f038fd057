"""Send a run's metrics to loggers that can neither stop nor slow the run."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from queue import SimpleQueue
from time import monotonic
from typing import Any

QUEUE_SIZE = 1024  # calls a logger may be behind


class Logger(ABC):
    """A destination for a run's metrics. All calls come from one thread of its own; it may block and raise."""

    @abstractmethod
    def start(self, run: Mapping[str, Any], directory: Path) -> None:
        """A run begins or continues; `run` is its resolved config, `directory` its folder on disk."""

    @abstractmethod
    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Values of one step; steps ascend, but for a resumed run's, which begin again at its checkpoint."""

    @abstractmethod
    def finish(self, state: str) -> None:
        """Nothing follows; `state` is finished, interrupted or failed."""


class LoggerFanOut:
    """Passes every call to every logger, without waiting for any.

    A logger that raises, stays in one call for more than `patience` seconds, or falls `QUEUE_SIZE` calls behind is
    dropped after one warning; the others go on. Warnings are given in the thread that calls `start`, `log` and `close`.
    """

    def __init__(self, loggers: Iterable[Logger], warn: Callable[[str], None], patience: float = 60.0) -> None:
        self._warn, self._patience = warn, patience
        self._workers = [_Worker(logger) for logger in loggers]

    def start(self, run: Mapping[str, Any], directory: Path) -> None:
        """Begin: `run` is the resolved config, `directory` the run's folder."""
        self._send(lambda logger: logger.start(run, directory))

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass on a copy of the metrics of a step."""
        copied = dict(metrics)
        self._send(lambda logger: logger.log(step, dict(copied)))

    def close(self, state: str) -> None:
        """Finish every logger, waiting at most `patience` seconds in all; what is not done by then is dropped."""
        self._send(lambda logger: logger.finish(state))
        deadline = monotonic() + self._patience
        for worker in self._workers:
            worker.stop()
        for worker in self._workers:
            worker.join(max(deadline - monotonic(), 0))
            if worker.is_alive() or worker.error is not None:
                self._drop(worker, worker.problem(self._patience) or f"was not done after {self._patience:g} seconds")
        self._workers = []

    def _send(self, call: Callable[[Logger], None]) -> None:
        for worker in list(self._workers):
            problem = worker.problem(self._patience) or worker.offer(call)
            if problem:
                self._drop(worker, problem)
                self._workers.remove(worker)

    def _drop(self, worker: _Worker, problem: str) -> None:
        worker.dropped = True
        worker.stop()
        self._warn(f"Logger {worker.name} {problem}. It gets nothing more of this run; metrics.db has everything.")


class _Worker(threading.Thread):
    """One logger, its queue of calls, and the daemon thread that makes them."""

    def __init__(self, logger: Logger) -> None:
        super().__init__(name=type(logger).__name__, daemon=True)
        self.error: BaseException | None = None
        self.dropped = False
        self._logger = logger
        self._calls: SimpleQueue[Callable[[Logger], None] | None] = SimpleQueue()
        self._called_at: float | None = None
        self.start()

    def run(self) -> None:
        while (call := self._calls.get()) is not None and not self.dropped:
            self._called_at = monotonic()
            try:
                call(self._logger)
            except BaseException as error:  # third-party code may raise anything, SystemExit too
                self.error = error
                return
            self._called_at = None

    def offer(self, call: Callable[[Logger], None]) -> str | None:
        """Queue a call, or say why that cannot be."""
        if self._calls.qsize() >= QUEUE_SIZE:
            return f"is {QUEUE_SIZE} calls behind"
        self._calls.put(call)
        return None

    def stop(self) -> None:
        """End the thread after the queued calls, or after the present one if the logger was dropped."""
        self._calls.put(None)

    def problem(self, patience: float) -> str | None:
        """Why the logger must be dropped, if it must."""
        called_at = self._called_at
        if self.error is not None:
            return f"raised {type(self.error).__name__}: {self.error}"
        if called_at is not None and monotonic() - called_at > patience:
            return f"has not returned for {patience:g} seconds"
        return None
