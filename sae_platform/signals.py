"""SIGINT and SIGTERM as a wish to stop: after the present step, or at once where there is none."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from sae_platform.errors import Interrupted

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While entered, from the main thread: the first signal is noted in `received`, or raises `Interrupted` with the
    words in `at_once` where they are set; a second one ends the process. Handlers are put back after."""

    def __init__(self) -> None:
        self.received: int | None = None
        self.at_once: str | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in STOPPING}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        for stopping in STOPPING:
            signal.signal(stopping, signal.SIG_DFL)
        if self.at_once is not None:
            raise Interrupted(self.at_once, number)
