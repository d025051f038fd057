"""Local files of text as documents."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from sae_platform.errors import PlatformError, choices
from sae_platform_transformers.documents import Documents, Joined, Listed
from sae_platform_transformers.tables import Table, table_file

BLANK_LINES = re.compile(r"\n(?:[^\S\n]*\n)+")


def local_documents(path: Path, column: str) -> Documents:
    """The documents of a file, or of every readable file in a folder."""
    if not path.exists():
        raise PlatformError(f"The dataset {str(path)!r} does not exist.")
    if path.is_file():
        return _read(path, column)
    files = sorted(file for file in path.rglob("*") if file.suffix in READERS and file.is_file())
    if not files:
        raise PlatformError(f"The dataset folder {str(path)!r} holds no file of these kinds: {choices(READERS)}.")
    return Joined([_read(file, column) for file in files])


def _read(path: Path, column: str) -> Documents:
    if path.suffix not in READERS:
        raise PlatformError(f"The dataset {str(path)!r} is of no kind that can be read: {choices(READERS)}.")
    return READERS[path.suffix](path, column)


def _paragraphs(path: Path, _: str) -> Documents:
    """A text file, cut into documents at blank lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PlatformError(f"{str(path)!r} is not UTF-8 text: {error}. Convert it, for example with iconv.") from error
    return Listed([(part, part) for part in BLANK_LINES.split(text)])


def _table(path: Path, column: str) -> Documents:
    if path.stat().st_size == 0:
        return Listed([])
    return Table(str(path), table_file(path), column)


READERS: dict[str, Callable[[Path, str], Documents]] = {".txt": _paragraphs, ".jsonl": _table, ".parquet": _table}
