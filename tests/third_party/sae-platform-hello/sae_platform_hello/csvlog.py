"""Metrics as lines of a CSV file in the run's folder."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sae_platform import Logger


class CsvLog(Logger):
    """One line `step,name,value` for every metric; a resumed run adds to the file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def start(self, run: Mapping[str, Any], directory: Path) -> None:
        self._path = directory / self._path
        if not self._path.exists():
            self._append([("step", "name", "value")])

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._append([(step, name, value) for name, value in metrics.items()])

    def finish(self, state: str) -> None:
        """Every line is already on disk."""

    def _append(self, lines: list[tuple[object, ...]]) -> None:
        with self._path.open("a", newline="") as file:
            csv.writer(file).writerows(lines)
