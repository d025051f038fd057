"""Pin a release: write down the commit of its repository, and the sha256 of every file its SAEs are read from."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from sae_platform import hub
from sae_platform.errors import PlatformError
from sae_platform.releases import Release
from sae_platform.upkeep.files import format_of, lacking, save

SHOWN = 5  # files that an error names
HEADER = re.compile(r"\s*\[")
REVISION_LINE = re.compile(r"""(\s*revision\s*=\s*)(".*?"|'.*?')(.*)""")


class Pins(NamedTuple):
    """What a release is held to."""

    revision: str | None  # None for a folder of this machine
    sha256: Mapping[str, str]


def pins(release: Release, revision: str | None = None) -> Pins:
    """The commit that a branch, a tag or the repository's own branch is at, and the digests of the files at it.

    What the hub does not say is downloaded. PlatformError when files are missing, or which they are is not known.
    """
    found = hub.listed(release.repo_id, revision, digests=True)
    form, saes = format_of(release.format), release.saes.values()
    missing = [place for sae in saes for place in lacking(sae, found.files)]
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        raise PlatformError(
            f"{release.name} cannot be pinned: {release.repo_id} has no {', '.join(missing[:SHOWN])}{more}. "
            f"Correct {release.file}, or give a --revision that has them."
        )
    files = sorted({place for sae in saes for place in form.files(sae.path) if place in found.files})
    unknown = {place: True for place in files if found.files[place] is None}
    root = hub.fetch(release.repo_id, unknown, found.commit) if unknown else Path()
    return Pins(found.commit, {place: found.files[place] or hub.digest_of(root / place) for place in files})


def write(release: Release, held: Pins, out: Path | None = None) -> Path:
    """Write a release with its pins into its own file, or another one, of which the rest stays as it is; returns which.

    PlatformError when it cannot be written, or is laid out so that the pins cannot be put in.
    """
    text = release.file.read_bytes().decode()
    new = "\n".join(_with_digests(_with_revision(text.split("\n"), held.revision), held.sha256))
    expected = {**tomllib.loads(text), "sha256": held.sha256}
    if held.revision is not None:
        expected["revision"] = held.revision
    if _content(new) != expected:
        raise PlatformError(
            f"{release.file} is laid out so that its revision cannot be put in. Write revision as a line of its own "
            "after repo_id and [sha256] as a table of its own, or take them out."
        )
    file = out or release.file.resolve()
    try:
        save(file, new)
    except PlatformError as error:
        raise PlatformError(
            f"{error} Give another file with --out, of a name that no release has: one name may stand in one file only."
        ) from error
    return file


def _with_revision(lines: Sequence[str], revision: str | None) -> list[str]:
    """The lines, with a revision in the one that has it, or in one after repo_id."""
    if revision is None:
        return list(lines)
    head = next((number for number, line in enumerate(lines) if HEADER.match(line)), len(lines))
    for number, line in enumerate(lines[:head]):
        if match := REVISION_LINE.fullmatch(line):
            return [*lines[:number], f'{match[1]}"{revision}"{match[3]}', *lines[number + 1 :]]
    after = next((number + 1 for number, line in enumerate(lines[:head]) if re.match(r"\s*repo_id\b", line)), 0)
    return [*lines[:after], f'revision = "{revision}"', *lines[after:]]


def _with_digests(lines: Sequence[str], sha256: Mapping[str, str]) -> list[str]:
    """The lines, with these digests in their table, or in one before the first SAE."""
    table = ["[sha256]", *(f'{json.dumps(place)} = "{digest}"' for place, digest in sha256.items())]
    headers = [number for number, line in enumerate(lines) if HEADER.match(line)] + [len(lines)]
    for begin, end in pairwise(headers):
        if re.match(r"\s*\[\s*sha256\s*\]", lines[begin]):
            kept = [line for line in lines[begin + 1 : end] if not re.match(r"""\s*["'\w]""", line)]  # comments, blanks
            return [*lines[:begin], *table, *kept, *lines[end:]]
    before = next((number for number in headers[:-1] if re.match(r"\s*\[\[\s*saes\s*\]\]", lines[number])), len(lines))
    while before and lines[before - 1].lstrip().startswith("#"):  # what is said of the SAEs
        before -= 1
    return [*lines[:before], *table, "", *lines[before:]]


def _content(text: str) -> Mapping[str, object] | None:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return None
