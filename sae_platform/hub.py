"""Files of an SAE on the Hugging Face hub: all of one commit, and from the cache when they are there.

A `repo_id` is `user/repository`, `datasets/user/repository`, or `local:` and a folder of this machine.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sae_platform.errors import PlatformError, nearest
from sae_platform.releases import REVISION, SHA256, leaves_repository, local_folder

SHOWN = 5  # folders that an error names
PATIENCE = 30.0  # seconds for a listing
DATASETS = "datasets/"


class Absent(PlatformError):
    """The hub says that there is no such repository, revision or file, or none that may be seen."""


class Busy(PlatformError):
    """The hub has been asked too often."""


class Listed(NamedTuple):
    """The files of a repository."""

    commit: str | None  # None for a folder of this machine
    files: Mapping[str, str | None]  # by their paths: the sha256, where the hub says it


def fetch(
    repo_id: str,
    files: Mapping[str, bool],
    revision: str | None = None,
    force_download: bool = False,
    *,
    sha256: Mapping[str, str] | None = None,
) -> Path:
    """Download files of a repository, and return the folder on this machine under which they lie as in it.

    `files` says of each path whether it is required. `revision` is a branch, tag or commit; with a commit, nothing that
    is in the cache is asked for again. A file whose path is in `sha256` must have that digest, wherever it comes from.
    PlatformError says what could not be had, why, and what to do.
    """
    wanted = {str(PurePosixPath(place)): required for place, required in files.items()}
    for place in wanted:
        if leaves_repository(place):
            raise PlatformError(f"{place!r} is no file inside a repository.")
    folder = local_folder(repo_id)
    root = _downloaded(repo_id, wanted, revision, force_download) if folder is None else _present(folder, wanted)
    for place, digest in (sha256 or {}).items():
        if place in wanted and (root / place).is_file():
            _check_digest(root / place, digest, f"{place} of {repo_id}")
    return root


def listed(repo_id: str, revision: str | None = None, digests: bool = False) -> Listed:
    """The files of a repository, and its commit. `digests` asks for what the hub knows of their sha256.

    PlatformError says why there is no answer; it is an `Absent` where there is no such repository or revision.
    """
    folder = local_folder(repo_id)
    if folder is not None:
        return Listed(None, dict.fromkeys(_files_under(folder)))
    from huggingface_hub import HfApi

    with _explained(repo_id, None, revision):
        how: dict[str, Any] = {**_named(repo_id), "timeout": PATIENCE}
        found = HfApi(os.environ.get("HF_ENDPOINT")).repo_info(revision=revision, files_metadata=digests, **how)
    files = {file.rfilename: file.lfs.sha256 if file.lfs else None for file in getattr(found, "siblings", None) or ()}
    return Listed(found.sha, files)


def listing(repo_id: str, revision: str | None = None) -> list[str]:
    """The files of a repository; none where the hub does not say, of which `fetch` says why."""
    try:
        return list(listed(repo_id, revision).files)
    except PlatformError:
        return []


def cached(repo_id: str, revision: str | None = None) -> list[str]:
    """The files of a repository that are in the cache, in the newest version there or in that of a commit."""
    if local_folder(repo_id) is not None:
        return listing(repo_id)
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(os.environ.get("HF_HUB_CACHE") or constants.HF_HUB_CACHE)
    folder = cache / repo_folder_name(**_named(repo_id))
    named = folder / "refs" / (revision or "main")
    root = folder / "snapshots" / (named.read_text() if named.is_file() else revision or "main")
    return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def digest_of(path: Path) -> str:
    """The sha256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _downloaded(repo_id: str, wanted: Mapping[str, bool], revision: str | None, force_download: bool) -> Path:
    """The files in the cache, all of one commit; what is fetched is said before, with its size."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    settings: dict[str, Any] = {
        **_named(repo_id), "endpoint": os.environ.get("HF_ENDPOINT"), "cache_dir": os.environ.get("HF_HUB_CACHE"),
        "force_download": force_download,
    }  # fmt: skip
    commit, planned = revision, []
    for place, required in wanted.items():
        if not required and _known_to_lack(repo_id, place, commit):
            continue
        with _explained(repo_id, place, revision):
            try:
                info = hf_hub_download(filename=place, revision=commit, dry_run=True, **settings)
            except EntryNotFoundError:
                if not required:
                    continue
                raise
        commit = info.commit_hash  # the other files must be of the same commit
        planned.append((place, info))
    _announce(repo_id, [info.file_size for _, info in planned if info.will_download])
    root, commit = Path(), revision  # the first by its branch, which the cache then knows
    for place, info in planned:
        with _explained(repo_id, place, revision):
            path = Path(hf_hub_download(filename=place, revision=commit, **settings))
        if info.will_download:
            _check_arrival(path, f"{place} of {repo_id}")
        root = path.parents[len(PurePosixPath(place).parts) - 1]
        commit = root.name
    return root


def _present(folder: Path, wanted: Mapping[str, bool]) -> Path:
    """A folder of this machine, if it has the files that are required."""
    for place, required in wanted.items():
        if required and not (folder / place).is_file():
            raise Absent(f"{folder} has no file {place!r}.{_where_else(place, _files_under(folder))}")
    return folder


def _files_under(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise Absent(f"The folder {folder} does not exist.")
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def _named(repo_id: str) -> dict[str, str]:
    """How the client calls a repository."""
    if repo_id.startswith(DATASETS):
        return {"repo_id": repo_id.removeprefix(DATASETS), "repo_type": "dataset"}
    return {"repo_id": repo_id, "repo_type": "model"}


def _known_to_lack(repo_id: str, place: str, commit: str | None) -> bool:
    """Whether the cache remembers that a commit has no such file."""
    from huggingface_hub import try_to_load_from_cache

    if commit is None or not REVISION.fullmatch(commit):
        return False
    cache = os.environ.get("HF_HUB_CACHE")
    found = try_to_load_from_cache(filename=place, revision=commit, cache_dir=cache, **_named(repo_id))
    return found is not None and not isinstance(found, str)


def _announce(repo_id: str, sizes: Sequence[int | None]) -> None:
    """Say on stderr what is about to be downloaded, where anything is."""
    known = [size for size in sizes if size is not None]
    size = f", {_readable(sum(known))}," if len(known) == len(sizes) else ""
    if sizes:
        print(f"Downloading {len(sizes)} file{'s' * (len(sizes) > 1)}{size} of {repo_id}", file=sys.stderr)


def _readable(size: float) -> str:
    """A number of bytes as people read it: 151 MB."""
    for unit in ("bytes", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if size >= 10 or unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _check_digest(path: Path, expected: str, what: str) -> None:
    found = digest_of(path)
    if found != expected:
        raise PlatformError(
            f"{what} is not the file that was asked for: its sha256 is {found}, and should be {expected}. Download it "
            "again with force_download=True; if it stays so, the file was replaced: `sae-platform registry pin` takes "
            "note of a new one, once you trust it."
        )


def _check_arrival(path: Path, what: str) -> None:
    """Compare a large file with its sha256, which is its name in the cache; a damaged one is removed from there."""
    blob = path.parent / path.readlink() if path.is_symlink() else path
    if SHA256.fullmatch(blob.name) and (found := digest_of(path)) != blob.name:
        path.unlink()
        blob.unlink()
        raise PlatformError(
            f"{what} arrived damaged: its sha256 is {found}, not {blob.name} as on the hub. It was removed; try again."
        )


@contextmanager
def _explained(repo_id: str, place: str | None, revision: str | None) -> Iterator[None]:
    """What the client raises, also from its HTTP library and from xet, as words for people."""
    try:
        yield
    except PlatformError:
        raise
    except Exception as error:
        raise _explanation(error, repo_id, place, revision) from error


def _explanation(error: Exception, repo_id: str, place: str | None, revision: str | None) -> PlatformError:
    from huggingface_hub import errors

    what = f"{place} of {repo_id}" if place else f"the list of files of {repo_id}"
    at = f" at {revision}" if revision else ""
    page = f"https://huggingface.co/{repo_id}"
    wrapped = isinstance(error, (errors.LocalEntryNotFoundError, ValueError))  # ValueError: with force_download
    refusal = (error.__cause__ if wrapped else None) or error
    response = getattr(refusal, "response", None)
    status = getattr(response, "status_code", None)
    if isinstance(refusal, errors.GatedRepoError):
        return PlatformError(f"{repo_id} is gated: accept its terms at {page}, then run `hf auth login`.")
    if isinstance(refusal, errors.RepositoryNotFoundError):
        return Absent(f"The hub has no repository {repo_id!r} that you may see. If it is private: hf auth login.")
    if isinstance(refusal, errors.RevisionNotFoundError):
        return Absent(f"{repo_id} has no revision {revision!r}; give a branch, a tag or a commit from {page}.")
    if place and isinstance(refusal, errors.RemoteEntryNotFoundError):
        return Absent(f"{repo_id}{at} has no file {place!r}.{_alternatives(repo_id, place, revision)}")
    if status == 429:
        return Busy(f"The hub refused {what}: too many requests (429). {_wait(response)}, or run `hf auth login`.")
    if status in (401, 403):
        return PlatformError(f"The hub does not let you read {repo_id} ({status}). Run `hf auth login`, or see {page}.")
    if status is not None and status >= 500:
        return PlatformError(f"The hub failed ({status}) when asked for {what}{at}. {_wait(response)} and try again.")
    if status is None and isinstance(error, errors.LocalEntryNotFoundError):
        return PlatformError(
            f"{place} of {repo_id}{at} is not in the cache, and the hub could not be asked for it "
            "(no network, or HF_HUB_OFFLINE=1). Download it once where there is a network."
        )
    reason = (str(refusal).strip().splitlines() or [type(refusal).__name__])[0]
    return PlatformError(f"Could not get {what}{at}: {reason}")


def _wait(response: Any) -> str:
    """For how long, where the hub says it."""
    seconds = str(response.headers.get("Retry-After") or "")
    return f"Wait {seconds} s" if re.fullmatch("[1-9][0-9]*", seconds) else "Wait a while"


def _alternatives(repo_id: str, place: str, revision: str | None) -> str:
    """A sentence with the folders of the repository that hold a file of this name."""
    files = listing(repo_id, revision)
    return _where_else(place, files) if files else ""


def _where_else(place: str, files: Sequence[str]) -> str:
    wanted = PurePosixPath(place)
    folders = [str(PurePosixPath(file).parent) for file in files if PurePosixPath(file).name == wanted.name]
    if not folders:
        return f" No folder of it holds a {wanted.name}."
    return f"{nearest(str(wanted.parent), folders)} Folders that have one: {', '.join(folders[:SHOWN])}" + (
        f" and {len(folders) - SHOWN} more." if len(folders) > SHOWN else "."
    )
