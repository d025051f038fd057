"""Python's own standard library as a text corpus that is on every machine that runs this."""

from __future__ import annotations

import hashlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

HELD_OUT_PERCENT = 5


def is_held_out(key: str, percent: int = HELD_OUT_PERCENT) -> bool:
    """Whether the document called `key` belongs to the held-out split; the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) % 100 < percent


def stdlib_documents(root: Path | None = None) -> Iterator[tuple[str, str]]:
    """Yield (path relative to the standard library, source text), sorted by path."""
    root = root or Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not {"site-packages", "dist-packages"} & set(relative.parts):
            try:
                yield relative.as_posix(), path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                continue  # a few test files are in other encodings on purpose
