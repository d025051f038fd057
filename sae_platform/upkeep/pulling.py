"""Copy the release files of others: from an archive on the web or a repository on the hub, all of them or none."""

from __future__ import annotations

import http.client
import os
import re
import tarfile
import tempfile
import urllib.request
import zipfile
import zlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from sae_platform import hub, registry
from sae_platform.errors import PlatformError
from sae_platform.releases import REPO, Release, leaves_repository, read_release

MARKER = ".pulled-from"  # in a folder that was pulled, with its source
FOLDERS = ("registry", ".")  # of an archive or a repository: the first that has release files
LARGEST_ARCHIVE, LARGEST_FILE = 200_000_000, 20_000_000  # bytes
PATIENCE = 30.0  # seconds without an answer


def default_folder(source: str) -> Path:
    """The folder for what is pulled from a place, which the registry looks in."""
    words = re.sub(r"^https?://|\.(tar\.gz|tgz|tar|zip)$", "", source)
    return registry.pulled() / (re.sub(r"[^\w.-]+", "-", words).strip("-.") or "pulled")


def pull(source: str, target: Path) -> list[Release]:
    """Replace the release files in `target` by those of a source; returns them.

    `source` is the address of a .tar.gz or .zip, `user/repository` or `datasets/user/repository`. PlatformError when
    they cannot be had, or one of them is not sound or of a name that another file has: `target` then is as it was.
    """
    target = target.resolve()
    if target.exists() and not (target / MARKER).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise PlatformError(
            f"{target} holds what was not pulled and would be lost. Name an empty or a new folder with --to."
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as scratch:
            new = Path(scratch) / "new"
            new.mkdir()
            releases = _checked(_contents(source, Path(scratch)), source, new, target)
            (new / MARKER).write_text(f"{source}\n", encoding="utf-8")
            _swap(new, target, Path(scratch) / "old")
    except OSError as error:
        raise PlatformError(f"{target} cannot be written, and is as it was: {error}.") from error
    return releases


def _contents(source: str, scratch: Path) -> dict[str, bytes]:
    """The release files of a source by their names."""
    if re.match(r"https?://", source):
        return _in_archive(_downloaded(source, scratch / "archive"), source)
    if not REPO.fullmatch(source.removeprefix("datasets/")):
        raise PlatformError(
            f"{source!r} is neither the address of a .tar.gz or .zip (https://...), nor user/repository or "
            "datasets/user/repository on the hub."
        )
    found = hub.listed(source)
    chosen = _chosen(found.files, source)
    root = hub.fetch(source, dict.fromkeys(chosen, True), found.commit)
    return {PurePosixPath(place).name: (root / place).read_bytes() for place in chosen}


def _downloaded(url: str, file: Path) -> Path:
    request = urllib.request.Request(url, headers={"User-Agent": "sae-platform"})
    size = 0
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as response, file.open("wb") as copy:
            expected = response.headers.get("Content-Length")
            while size <= LARGEST_ARCHIVE and (data := response.read(1 << 20)):
                size += copy.write(data)
    except (OSError, http.client.HTTPException) as error:
        raise PlatformError(f"{url} could not be downloaded: {error}. Try again later.") from error
    if size > LARGEST_ARCHIVE:
        raise PlatformError(f"{url} is larger than {LARGEST_ARCHIVE:,} bytes, which no folder of release files is.")
    if expected is not None and size != int(expected):
        raise PlatformError(f"The download of {url} broke off after {size:,} of {int(expected):,} bytes. Try again.")
    return file


def _in_archive(archive: Path, source: str) -> dict[str, bytes]:
    try:
        return _in_zip(archive, source) if zipfile.is_zipfile(archive) else _in_tar(archive, source)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise PlatformError(f"{source} is no .tar.gz or .zip that can be read: {error}.") from error


def _in_zip(path: Path, source: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        return {PurePosixPath(name).name: _read(archive.open(name), name) for name in _chosen(names, source)}


def _in_tar(path: Path, source: str) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        members = {member.name: member for member in archive if not member.isdir()}
        contents = {}
        for name in _chosen(members, source):
            stream = archive.extractfile(members[name]) if members[name].isfile() else None
            if stream is None:
                raise PlatformError(f"{name} in {source} is a link or a device, not a file. Nothing of it is taken.")
            contents[PurePosixPath(name).name] = _read(stream, name)
        return contents


def _read(stream: IO[bytes], name: str) -> bytes:
    with stream:
        content = stream.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise PlatformError(f"{name} is larger than {LARGEST_FILE:,} bytes, which no release file is.")
    return content


def _chosen(names: Collection[str], source: str) -> list[str]:
    """The release files among the files of an archive or a repository, of which one folder may hold all."""
    for name in names:
        if leaves_repository(name):
            raise PlatformError(f"{source} holds {name!r}, which leads out of its folder. Nothing of it is taken.")
    parts = {name: PurePosixPath(name).parts for name in names}
    tops = {each[0] if len(each) > 1 else "" for each in parts.values()} - set(FOLDERS)
    depth = 1 if len(tops) == 1 and "" not in tops and all(each[0] in tops for each in parts.values()) else 0
    for folder in FOLDERS:
        chosen = [name for name, each in parts.items() if _is_release(PurePosixPath(*each[depth:]), folder)]
        if chosen:
            return chosen
    raise PlatformError(f"{source} has no release files: there is no .toml in its folder registry, nor at its top.")


def _is_release(place: PurePosixPath, folder: str) -> bool:
    return str(place.parent) == folder and place.suffix == ".toml" and not place.name.startswith(".")


def _checked(contents: Mapping[str, bytes], source: str, new: Path, target: Path) -> list[Release]:
    """Write the files into `new` and read them as releases. PlatformError naming all that is wrong with them."""
    releases, problems = [], []
    for name, content in sorted(contents.items()):
        (new / name).write_bytes(content)
        try:
            releases.append(read_release(new / name))
        except PlatformError as error:
            problems.append(str(error).replace(f"{new}{os.sep}", ""))
        problems += _name_problems(Path(name).stem, target)
    if problems:
        raise PlatformError("\n".join([f"Nothing was taken from {source}:", *problems]))
    return releases


def _name_problems(name: str, target: Path) -> Sequence[str]:
    if not registry.is_name(name):
        return [f"{name!r} cannot be the name of a release."]
    others = [file for file in registry.release_files(name, everywhere=True) if file.parent.resolve() != target]
    return [f"The release {name!r} is described in {file} too; one name may stand in one file only." for file in others]


def _swap(new: Path, target: Path, old: Path) -> None:
    """Put a folder in the place of another, which is put back where that fails."""
    if target.exists():
        target.rename(old)
    try:
        new.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
