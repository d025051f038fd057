"""Files of an SAE on the Hugging Face hub: all of one commit, and from the cache when they are there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from sae_platform.errors import PlatformError, nearest

SHOWN = 5  # folders that an error names


def fetch(repo_id: str, files: Mapping[str, bool], revision: str | None = None, force_download: bool = False) -> Path:
    """Download files of a repository, and return the folder on this machine under which they lie as in it.

    `files` says of each path whether it is required. `revision` is a branch, tag or commit; with a commit, nothing that
    is in the cache is asked for again. PlatformError says what could not be had, why, and what to do.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    for place in files:
        if PurePosixPath(place).is_absolute() or ".." in PurePosixPath(place).parts:
            raise PlatformError(f"{place!r} is no file inside a repository.")
    endpoint, cache = os.environ.get("HF_ENDPOINT"), os.environ.get("HF_HUB_CACHE")
    root, commit = None, revision
    for place, required in files.items():
        try:
            path = Path(
                hf_hub_download(
                    repo_id, place, revision=commit, force_download=force_download, endpoint=endpoint, cache_dir=cache
                )
            )
        except EntryNotFoundError as error:
            if not required:
                continue
            raise _explained(error, repo_id, place, revision) from error
        except (OSError, ValueError) as error:
            raise _explained(error, repo_id, place, revision) from error
        root = path.parents[len(PurePosixPath(place).parts) - 1]
        commit = root.name  # the other files must be of the same commit
    assert root is not None
    return root


def _explained(error: Exception, repo_id: str, place: str, revision: str | None) -> PlatformError:
    from huggingface_hub import errors

    at = f" at {revision}" if revision else ""
    page = f"https://huggingface.co/{repo_id}"
    if isinstance(error, errors.GatedRepoError):
        return PlatformError(f"{repo_id} is gated: accept its terms at {page}, then run `hf auth login`.")
    if isinstance(error, errors.RepositoryNotFoundError):
        return PlatformError(
            f"The hub has no repository {repo_id!r} that you may see. If it is private: hf auth login."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return PlatformError(f"{repo_id} has no revision {revision!r}; give a branch, a tag or a commit from {page}.")
    refusal = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    status = getattr(getattr(refusal, "response", None), "status_code", None)
    if status == 429:
        return PlatformError(f"The hub refused {place} of {repo_id}: too many requests. Wait, or run `hf auth login`.")
    if status in (401, 403):
        return PlatformError(f"The hub does not let you read {repo_id} ({status}). Run `hf auth login`, or see {page}.")
    if status is None and isinstance(error, errors.LocalEntryNotFoundError):
        return PlatformError(
            f"{place} of {repo_id}{at} is not in the cache, and the hub could not be asked for it "
            "(no network, or HF_HUB_OFFLINE=1). Download it once where there is a network."
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return PlatformError(f"{repo_id}{at} has no file {place!r}.{_alternatives(repo_id, place, revision)}")
    reason = str(refusal).strip().splitlines()[0]
    return PlatformError(f"{place} of {repo_id}{at} could not be downloaded: {reason}")


def _alternatives(repo_id: str, place: str, revision: str | None) -> str:
    """A sentence with the folders of the repository that hold a file of this name."""
    from huggingface_hub import HfApi

    try:
        files = HfApi(os.environ.get("HF_ENDPOINT")).list_repo_files(repo_id, revision=revision)
    except Exception:
        return ""
    wanted = PurePosixPath(place)
    folders = [str(PurePosixPath(file).parent) for file in files if PurePosixPath(file).name == wanted.name]
    if not folders:
        return f" No folder of it holds a {wanted.name}."
    return f"{nearest(str(wanted.parent), folders)} Folders that have one: {', '.join(folders[:SHOWN])}" + (
        f" and {len(folders) - SHOWN} more." if len(folders) > SHOWN else "."
    )
