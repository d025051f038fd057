"""SIGINT and SIGTERM as a wish to stop after the present step; a second one ends the process at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

STOPPING = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """While entered, from the main thread: the first signal is noted in `received`; handlers are put back after."""

    def __init__(self) -> None:
        self.received: int | None = None
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
