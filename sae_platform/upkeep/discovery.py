"""Describe the SAEs of a repository or a folder as a release, as far as their files say what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from sae_platform import hub
from sae_platform.components import WeightFormat
from sae_platform.errors import PlatformError, choices
from sae_platform.plugins import installed_plugins
from sae_platform.releases import LOCAL, REPO, Release, local_folder, read_release, written
from sae_platform.upkeep.files import format_of, needed, save

SITE_NAMES = "resid_pre|resid_mid|resid_post|attn_out|mlp_out|mlp_in|z"
SITE = re.compile(rf"(?:^|hook_)({SITE_NAMES})(?:\.\d+)?$")
LAYER = re.compile(rf"(?:^|\.)(?:blocks|layers|h|{SITE_NAMES})\.(\d+)")


class Facts(NamedTuple):
    """What a cfg.json says of an SAE; None where it says nothing."""

    model: str | None = None
    layer: int | None = None
    site: str | None = None
    width: int | None = None


def repository_of(source: str) -> str:
    """What `repo_id` a folder or a repository has in a release file. PlatformError when it is neither."""
    folder = local_folder(source) or Path(source).expanduser()
    if folder.is_dir():
        return f"{LOCAL}{folder.resolve().as_posix()}"
    if REPO.fullmatch(source):
        return source
    raise PlatformError(f"{source!r} is neither a folder nor user/repository on the hub.")


def described(repo_id: str, kind: str | None = None, model: str | None = None) -> dict[str, Any]:
    """The content of a release file for the SAEs of a repository, of one format and one model.

    PlatformError when there are none, or when `kind` or `model` must say which.
    """
    found = hub.listed(repo_id)
    formats = discovered(found.files, kind)
    kinds = sorted(set(formats.values()))
    if not kinds:
        raise PlatformError(
            f"{repo_id} holds no SAE{f' in the format {kind}' if kind else ''} that could be found by its files. "
            "Formats of one file for each SAE are not looked for: write the release file by hand, as "
            "registry/README.md shows."
        )
    if len(kinds) > 1:
        raise PlatformError(f"{repo_id} holds SAEs of several formats, {choices(kinds)}. Choose one with --format.")
    facts = _facts(repo_id, list(formats), found.commit) if kinds == ["saelens"] else dict.fromkeys(formats, Facts())
    model = _model(repo_id, {each.model for each in facts.values() if each.model}, model)
    name = PurePosixPath(repo_id).name
    rows = [_row(path, each, name) for path, each in facts.items() if each.model in (None, model)]
    return {"model": model, "repo_id": repo_id, "format": kinds[0], "saes": rows}


def discovered(present: Collection[str], kind: str | None = None) -> dict[str, str]:
    """The paths at which SAEs lie among these files, and the format of each; only of `kind`, if it is given.

    A file belongs to one SAE: that of the format that needs most files. Formats of one file for each SAE are left out.
    PlatformError where two formats fit alike.
    """
    kinds = [kind] if kind else ["saelens", *sorted(installed_plugins().kinds(WeightFormat))]
    forms = [format_of(each) for each in kinds]
    fits = [(path, form) for path in _candidates(present) for form in forms if _fits(form, path, present)]
    found: dict[str, WeightFormat] = {}
    taken: set[str] = set()
    for path, form in sorted(fits, key=lambda fit: -len(needed(fit[1], fit[0]))):
        files = needed(form, path)
        if path in found and set(files) == set(needed(found[path], path)):
            raise PlatformError(
                f"{path} may be of the format {found[path].kind} or {form.kind}. Say which with --format."
            )
        if taken.isdisjoint(files):
            found[path] = form
            taken |= set(files)
    return {path: found[path].kind for path in sorted(found, key=_natural)}


def add(name: str, content: Mapping[str, Any], folder: Path) -> Release:
    """Write a release file into a folder. PlatformError when what is found cannot be described so."""
    file = folder / f"{name}.toml"
    save(file, written(content))
    try:
        return read_release(file)
    except PlatformError:
        file.unlink()
        raise


def _candidates(present: Collection[str]) -> Iterator[str]:
    """The paths that an SAE may have: folders, files, and files without their suffix."""
    paths: dict[str, None] = {}
    for place in map(PurePosixPath, present):
        paths |= dict.fromkeys(str(path) for path in (*place.parents, place, place.with_suffix("")))
    return iter(paths)


def _fits(form: WeightFormat, path: str, present: Collection[str]) -> bool:
    files = needed(form, path)
    return bool(files) and files != [path] and form.fits(path, present)


def _facts(repo_id: str, paths: list[str], commit: str | None) -> dict[str, Facts]:
    """What the cfg.json of every SAE folder says."""
    places = {path: str(PurePosixPath(path, "cfg.json")) for path in paths}
    root = hub.fetch(repo_id, dict.fromkeys(places.values(), True), commit)
    return {path: _said(root / place) for path, place in places.items()}


def _said(cfg_json: Path) -> Facts:
    try:
        content = json.loads(cfg_json.read_text(encoding="utf-8"))
        content = {**content, **(content.get("metadata") or {})}  # where SAELens 6 has the names
    except (OSError, ValueError, TypeError, AttributeError):
        return Facts()
    hook = str(content.get("hook_name") or content.get("hook_point") or "")
    layer, site = LAYER.search(hook), SITE.search(hook)
    transcodes = "transcoder" in str(content.get("architecture"))
    model, width = content.get("model_name"), content.get("d_sae")
    return Facts(
        model if isinstance(model, str) and model else None,
        int(layer[1]) if layer else None,
        "transcoder" if transcodes else site[1] if site else None,
        width if type(width) is int else None,
    )


def _model(repo_id: str, said: set[str], given: str | None) -> str:
    if given and said and given not in said:
        raise PlatformError(f"The SAEs of {repo_id} say that they are of {choices(said)}, not of {given}.")
    if given or len(said) == 1:
        return given or said.pop()
    if said:
        raise PlatformError(f"The SAEs of {repo_id} are of several models, {choices(said)}. Choose one with --model.")
    raise PlatformError(f"The files of {repo_id} do not say which model its SAEs are of. Say it with --model.")


def _row(path: str, facts: Facts, name: str) -> dict[str, Any]:
    """The row of an SAE; one that lies at the root of its repository has the repository's name."""
    place = {"id": name, "path": path} if path == "." else {"id": path}
    known = {"layer": facts.layer, "site": facts.site, "width": facts.width}
    return {**place, **{key: value for key, value in known.items() if value is not None}}


def _natural(path: str) -> list[tuple[int, str]]:
    """For sorting: layer 10 after layer 9."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path)]
