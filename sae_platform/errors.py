"""The error that is shown to people as its message alone, and the words for a near miss."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class PlatformError(Exception):
    """Something asked for cannot be done; the message says what, why not, what exists and how to fix it."""

    exit_code = 2


class Interrupted(PlatformError):
    """A run was stopped by a signal after it saved a checkpoint; `exit_code` is 128 plus the signal's number."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


def nearest(name: str, known: Iterable[str]) -> str:
    """A sentence naming the known word closest to `name`, or nothing when none is close."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f" Did you mean {near[0]!r}?" if near else ""


def choices(known: Iterable[str]) -> str:
    """The known words as a readable list."""
    return ", ".join(sorted(known)) or "none"
