"""What was read of release files is kept, and never believed over the files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import platformdirs
import pytest

from sae_platform import PlatformError, registry

SOUND = 'model = "m"\nrepo_id = "user/repo"\n[[saes]]\nid = "first"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(registry, "packaged", lambda: tmp_path / "release-files")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "release-files").mkdir()
    (tmp_path / "release-files" / "mine.toml").write_text(SOUND)
    return tmp_path / "release-files"


def kept() -> Path:
    return Path(platformdirs.user_cache_dir("sae-platform")) / "registry-parsed.json"


def found() -> list[str]:
    return [sae.sae_id for sae in registry.search("repo")]


def test_a_file_that_did_not_change_is_not_parsed_again(folder: Path) -> None:
    assert found() == ["first"]
    content = json.loads(kept().read_text())
    (entry,) = content["files"].values()
    entry["content"]["saes"][0]["id"] = "kept"
    kept().write_text(json.dumps(content))
    assert found() == ["kept"]


def test_a_file_that_changed_is_read(folder: Path) -> None:
    assert found() == ["first"]
    (folder / "mine.toml").write_text(SOUND.replace("first", "other"))
    os.utime(folder / "mine.toml", ns=(1, 1))
    assert found() == ["other"]
    (folder / "mine.toml").write_text(SOUND.replace("repo_id", "rep_id"))
    with pytest.raises(PlatformError, match="'rep_id' is not a field of a release"):
        found()


@pytest.mark.parametrize("spoilt", ["", "[]", '{"format": 0, "files": {}}', '{"format": 1, "files": {"a": 3}}'])
def test_what_is_kept_may_be_spoilt(spoilt: str, folder: Path) -> None:
    assert found() == ["first"]
    kept().write_text(spoilt)
    assert found() == ["first"]


def test_where_nothing_can_be_kept_files_are_read(folder: Path) -> None:
    kept().parent.parent.mkdir(parents=True, exist_ok=True)
    kept().parent.write_text("no folder")
    assert found() == found() == ["first"]
