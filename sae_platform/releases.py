"""Release files: which SAEs a release has, and where their weights lie. One TOML file each, named after its release.

    model = "gemma-2-2b"
    repo_id = "google/gemma-scope-2b-pt-res"
    format = "gemma_scope"

    [[saes]]
    id = "layer_{layer}/width_16k/average_l0_{l0}"
    layer = [0, 0, 1]
    l0 = [46, 105, 40]

A row stands for one SAE, or, where fields are lists, for as many as the lists are long: the fields are read side by
side, and `{field}` in id, path and neuronpedia_id stands for the one at that place. `vars` holds lists for templates.
"""

from __future__ import annotations

import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sae_platform.errors import PlatformError, choices, nearest

SITES = (
    "resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out", "mlp_in", "z", "embedding",
    "transcoder", "cross_layer_transcoder",
)  # fmt: skip


@dataclass(frozen=True)
class ReleasedSAE:
    """One SAE of a release, as its file says; None where it says nothing."""

    release: str
    sae_id: str
    model: str
    repo_id: str
    path: str  # folder or file in the repository
    format: str
    neuronpedia_id: str | None = None  # {model}/{layer}-{set}
    layer: int | None = None
    site: str | None = None  # one of SITES
    width: int | None = None  # d_sae
    l0: float | None = None  # mean number of active features
    variance_explained: float | None = None
    norm_scaling_factor: float | None = None  # what the weights expect their input to be multiplied by
    revision: str | None = None  # commit of the repository


@dataclass(frozen=True)
class Release:
    """A release file that has been read and found valid."""

    name: str
    file: Path
    model: str
    repo_id: str
    format: str = "saelens"
    revision: str | None = None
    license: str | None = None
    links: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)  # what the files themselves lack or say wrongly
    sha256: Mapping[str, str] = field(default_factory=dict)  # of files, by their paths in the repository
    saes: Mapping[str, ReleasedSAE] = field(default_factory=dict)  # by id, in the order of the file


def read_release(file: Path) -> Release:
    """Read and check a release file. PlatformError lists everything that is wrong with it, by line."""
    return release_of(file, sound_content(file))


def sound_content(file: Path) -> dict[str, Any]:
    """What a release file says. PlatformError lists everything that is wrong with it, by line."""
    try:
        text = file.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as error:
        raise PlatformError(f"The release file {file} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # also what is not UTF-8
        raise PlatformError(f"{file} is not a valid release file: {error}.") from error
    places = _Places(text)
    problems = list(_problems(content))
    if problems:
        raise PlatformError("\n".join(f"{file}:{places.line(row, key)}: {what}" for row, key, what in problems))
    return content


def release_of(file: Path, content: Mapping[str, Any]) -> Release:
    """The release that a file with this content describes. PlatformError where two SAEs have one id."""
    release = Release(file.stem, file, **{key: value for key, value in content.items() if key != "saes"})
    saes: dict[str, ReleasedSAE] = {}
    for number, row in enumerate(content["saes"]):
        for sae in _expanded(release, row):
            if sae.sae_id in saes:
                line = _Places(file.read_text(encoding="utf-8")).line(number, "id")
                raise PlatformError(f"{file}:{line}: the id {sae.sae_id!r} appears twice.")
            saes[sae.sae_id] = sae
    return replace(release, saes=saes)


def local_folder(repo_id: str) -> Path | None:
    """The folder of this machine that a repo_id names, as `local:/home/me/saes`; None for a repository on the hub."""
    return Path(repo_id.removeprefix(LOCAL)) if repo_id.startswith(LOCAL) else None


def leaves_repository(path: str) -> bool:
    """Whether a path is not one inside a repository."""
    return not path or path.startswith("/") or "\\" in path or ".." in path.split("/")


def written(content: Mapping[str, Any]) -> str:
    """The text of a release file with this content."""
    plain = {key: value for key, value in content.items() if key not in (*TABLES, "saes")}
    blocks = [_lines(plain)]
    blocks += [f"[{table}]\n{_lines(content[table])}" for table in TABLES if content.get(table)]
    blocks += [f"[[saes]]\n{_lines(row)}" for row in content["saes"]]
    return "\n".join(blocks)


def _lines(table: Mapping[str, Any]) -> str:
    return "".join(f"{_key(key)} = {_literal(value)}\n" for key, value in table.items())


def _literal(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {_literal(each)}' for key, each in value.items())} }}"
    if isinstance(value, (list, tuple)):
        line = ", ".join(map(_literal, value))
        return f"[{line}]" if len(line) <= LINE else "[\n" + textwrap.indent(textwrap.fill(line, LINE), "  ") + ",\n]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are the same in both


def _key(name: str) -> str:
    return name if re.fullmatch(r"[\w-]+", name, re.ASCII) else json.dumps(name, ensure_ascii=False)


LINE = 110
TABLES = ("links", "config", "sha256")
REVISION = re.compile(r"[0-9a-f]{40}")
SHA256 = re.compile(r"[0-9a-f]{64}")
REPO = re.compile(r"[\w.-]+/[\w.-]+")
LOCAL = "local:"
STRINGS = ("id", "path", "neuronpedia_id", "site")
NUMBERS = {"layer": (int,), "width": (int,), "l0": (int, float), "variance_explained": (int, float),
           "norm_scaling_factor": (int, float)}  # fmt: skip
ROW_KEYS = (*STRINGS, *NUMBERS, "vars")
RELEASE_KEYS = {"model": str, "repo_id": str, "format": str, "revision": str, "license": str, "links": dict,
                "config": dict, "sha256": dict, "saes": list}  # fmt: skip
TEMPLATES = ("id", "path", "neuronpedia_id")

Problem = tuple[int | None, str | None, str]  # row, key, what is wrong


def _problems(content: Mapping[str, Any]) -> Iterator[Problem]:
    for key, value in content.items():
        if key not in RELEASE_KEYS:
            what = f"{key!r} is not a field of a release.{nearest(key, RELEASE_KEYS)} Fields: {choices(RELEASE_KEYS)}."
            yield None, key, what
        elif not isinstance(value, RELEASE_KEYS[key]) or not value:
            yield None, key, f"{key} is {value!r}, but must be a {RELEASE_KEYS[key].__name__} with something in it."
    for key in ("model", "repo_id", "saes"):
        if key not in content:
            yield None, None, f"{key} is missing."
    yield from _problems_of_files(content)
    rows = content.get("saes")
    for number, row in enumerate(rows if isinstance(rows, list) else ()):
        for problem in _row_problems(row):
            yield number, *problem


def _problems_of_files(content: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with where the files are and what is in them."""
    repo, revision, digests = (content.get(key) for key in ("repo_id", "revision", "sha256"))
    folder = local_folder(repo) if isinstance(repo, str) else None
    if isinstance(repo, str) and not (folder.is_absolute() if folder else REPO.fullmatch(repo)):
        yield None, "repo_id", f"repo_id is {repo!r}, but must be user/repository, or {LOCAL} and an absolute folder."
    if isinstance(revision, str) and not REVISION.fullmatch(revision):
        yield None, "revision", f"revision is {revision!r}, but must be a commit of 40 hexadecimal digits."
    for path, digest in digests.items() if isinstance(digests, dict) else ():
        if leaves_repository(path):
            yield None, path, f"sha256 names {path!r}, which leaves the repository."
        elif not isinstance(digest, str) or not SHA256.fullmatch(digest):
            yield None, path, f"sha256 of {path} is {digest!r}, but must be 64 hexadecimal digits."


def _row_problems(row: Any) -> Iterator[tuple[str | None, str]]:
    if not isinstance(row, dict):
        yield None, f"saes holds {row!r}, not a table."
        return
    if "id" not in row:
        yield None, "id is missing."
    for key, value in row.items():
        if key not in ROW_KEYS:
            yield key, f"{key!r} is not a field of an SAE.{nearest(key, ROW_KEYS)} Fields: {choices(ROW_KEYS)}."
        elif key == "vars":
            if not isinstance(value, dict) or not all(isinstance(column, list) for column in value.values()):
                yield key, "vars must be a table of lists."
        else:
            yield from _value_problems(key, value)
    columns = {key: len(value) for key, value in _columns(row).items()}
    if len(set(columns.values())) > 1 or 0 in columns.values():
        lengths = ", ".join(f"{key} {length}" for key, length in columns.items())
        yield next(iter(columns)), f"lists of a row must have the same length, not {lengths}."
        return
    known = {*_columns(row), *(key for key in NUMBERS if key in row)}
    for key in TEMPLATES:
        for template in _as_list(row.get(key)):
            for name in re.findall(r"\{(.*?)\}|[{}]", template) if isinstance(template, str) else ():
                if name not in known:
                    yield key, f"{key} asks for {{{name}}}, which the row does not have."


def _value_problems(key: str, value: Any) -> Iterator[tuple[str, str]]:
    for each in _as_list(value):
        if key in NUMBERS:
            if type(each) not in NUMBERS[key]:
                yield key, f"{key} holds {each!r}, which is not a number."
        elif not isinstance(each, str) or not each:
            yield key, f"{key} holds {each!r}, which is not text."
        elif key == "site" and each not in SITES:
            yield key, f"site holds {each!r}.{nearest(each, SITES)} Sites: {choices(SITES)}."
        elif key in ("id", "path") and leaves_repository(each):
            yield key, f"{key} holds {each!r}, which leaves the repository."
        elif key == "neuronpedia_id" and each.count("/") != 1:
            yield key, f"neuronpedia_id holds {each!r}, which is not model/source."


def _expanded(release: Release, row: Mapping[str, Any]) -> Iterator[ReleasedSAE]:
    """The SAEs that a row stands for."""
    columns = _columns(row)
    single = {key: value for key, value in row.items() if key not in columns and key != "vars"}
    for values in zip(*columns.values(), strict=True) if columns else ((),):
        at = {**single, **dict(zip(columns, values, strict=True))}
        sae_id = at["id"].format_map(at)
        path, neuronpedia_id = at.get("path"), at.get("neuronpedia_id")
        yield ReleasedSAE(
            release.name, sae_id, release.model, release.repo_id,
            path.format_map(at) if path else sae_id, release.format,
            neuronpedia_id.format_map(at) if neuronpedia_id else None,
            at.get("layer"), at.get("site"), at.get("width"), at.get("l0"),
            at.get("variance_explained"), at.get("norm_scaling_factor"), release.revision,
        )  # fmt: skip


def _columns(row: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The fields that are lists, those of vars among them."""
    lists = {key: value for key, value in row.items() if isinstance(value, list)}
    given = row.get("vars")
    return {**(given if isinstance(given, dict) else {}), **lists}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


class _Places:
    """Where the keys of a release file stand."""

    def __init__(self, text: str) -> None:
        self.lines = text.splitlines()
        self.rows = [number for number, line in enumerate(self.lines) if line.replace(" ", "") == "[[saes]]"]

    def line(self, row: int | None, key: str | None) -> int:
        """The line, from 1 on, of a key in a row, or of the row, or of a key of the release."""
        if row is not None and row >= len(self.rows):  # written in another way
            row, key = None, "saes"
        begins = [0, *self.rows, len(self.lines)]
        first, last = (0, len(self.lines)) if row is None else (begins[row + 1], begins[row + 2])
        for number in range(first, last):
            if key is not None and re.match(rf"\s*(\[\s*)?\"?{re.escape(key)}\b", self.lines[number]):
                return number + 1
        return first + 1
