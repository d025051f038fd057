"""Run a stream in a thread of its own, so that two devices work at once: the model fills while the SAE trains."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import Full, Queue
from typing import TypeVar

T = TypeVar("T")
POLL_SECONDS = 0.1  # how soon a thread with nobody left to read it ends


def ahead(stream: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The items of a stream in their order. Up to `depth` of them lie ready while the next is made.

    What the stream raises is raised here, after the items before it. Closing the iterator ends the thread.
    """
    ready: Queue[tuple[T | None, BaseException | None]] = Queue(depth)
    closed = threading.Event()
    thread = threading.Thread(target=_fill, args=(stream, ready, closed), name="activations", daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield item  # type: ignore[misc]
    finally:
        closed.set()
        thread.join()


def _fill(stream: Iterator[T], ready: Queue[tuple[T | None, BaseException | None]], closed: threading.Event) -> None:
    error: BaseException | None = None
    while error is None and not closed.is_set():
        item = None
        try:
            item = next(stream)
        except BaseException as problem:
            error = problem
        while not closed.is_set():
            try:
                ready.put((item, error), timeout=POLL_SECONDS)
                break
            except Full:
                continue
