"""Release files that were read before, kept parsed: reading TOML takes longer than all the rest of a search."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from sae_platform.releases import Release, release_of, sound_content

FORMAT = 1  # of the file in the cache


class ParsedFiles:
    """Contents of sound release files by path, size and date, in the user's cache folder.

    What cannot be kept there is read each time.
    """

    def __init__(self) -> None:
        import platformdirs

        self._file = Path(platformdirs.user_cache_dir("sae-platform")) / "registry-parsed.json"
        self._known: dict[str, Any] = self._kept()
        self._is_new = False

    def release(self, file: Path) -> Release:
        """The release in a file. PlatformError lists everything that is wrong with it, by line."""
        place, stat = str(file.resolve()), file.stat()
        stamp = [stat.st_size, stat.st_mtime_ns]
        entry = self._known.get(place)
        if not isinstance(entry, dict) or entry.get("stamp") != stamp:
            entry = self._known[place] = {"stamp": stamp, "content": sound_content(file)}
            self._is_new = True
        return release_of(file, entry["content"])

    def save(self) -> None:
        """Keep what was read, whole or not at all."""
        if not self._is_new:
            return
        present = {place: entry for place, entry in self._known.items() if Path(place).is_file()}
        scratch = self._file.with_suffix(f".{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps({"format": FORMAT, "files": present}), encoding="utf-8")
            scratch.replace(self._file)
        except OSError:
            with suppress(OSError):
                scratch.unlink()

    def _kept(self) -> dict[str, Any]:
        try:
            content = json.loads(self._file.read_text(encoding="utf-8"))
            return dict(content["files"]) if content["format"] == FORMAT else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}
