"""Whether the files of releases still exist, by one listing for each repository, with what was found kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event

from sae_platform import hub
from sae_platform.errors import PlatformError
from sae_platform.releases import Release
from sae_platform.upkeep.files import lacking, save

WORKERS = 4
Place = tuple[str, str | None]  # repository and revision
Answer = hub.Listed | PlatformError


@dataclass(frozen=True)
class Finding:
    """What is known of a release's files, and since when."""

    release: str
    repo_id: str
    asked: str  # a digest of what was looked for
    date: str  # ISO, in UTC
    missing: Sequence[Sequence[str]] = ()  # sae_id and file
    gone: str = ""  # why none of it can be had
    problem: str = ""  # why nothing is known

    def answers(self, asked: str, since: datetime) -> bool:
        """Whether this question is answered, and was after that date."""
        return not self.problem and self.asked == asked and datetime.fromisoformat(self.date) >= since


def default_store() -> Path:
    """The file in which findings are kept."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("sae-platform")) / "registry-check.json"


def check(releases: Iterable[Release], store: Path, max_age: timedelta, limit: int | None = None) -> Iterator[Finding]:
    """What is known of the releases: first what `store` remembers, then what the hub says of `limit` repositories more.

    Those asked longest ago come first; `store` is written after every answer, so that another call goes on where this
    one stopped. When the hub says that it was asked too often, no further repository is asked.
    """
    known = _remembered(store)
    since = datetime.now(UTC) - max_age
    due: dict[Place, list[Release]] = {}
    for release in sorted(releases, key=lambda each: known[each.name].date if each.name in known else ""):
        finding = known.get(release.name)
        if finding and finding.answers(_question(release), since):
            yield finding
        else:
            due.setdefault((release.repo_id, release.revision), []).append(release)
    for place, answer in _answers(list(due)[:limit]):
        findings = {release.name: _finding(release, answer) for release in due[place]}
        known |= findings
        save(store, json.dumps({name: asdict(finding) for name, finding in sorted(known.items())}))
        yield from findings.values()


def _answers(places: Sequence[Place]) -> Iterator[tuple[Place, Answer]]:
    """What the hub says of each repository, as the answers come in."""
    busy = Event()
    with ThreadPoolExecutor(WORKERS) as pool:
        questions = {pool.submit(_ask, *place, busy): place for place in places}
        try:
            for question in as_completed(questions):
                if (answer := question.result()) is not None:
                    yield questions[question], answer
        finally:
            pool.shutdown(cancel_futures=True)


def _ask(repo_id: str, revision: str | None, busy: Event) -> Answer | None:
    """The files of a repository, or why they are not known; nothing once the hub is `busy`."""
    if busy.is_set():
        return None
    try:
        return hub.listed(repo_id, revision)
    except PlatformError as error:
        if isinstance(error, hub.Busy):
            busy.set()
        return error


def _finding(release: Release, answer: Answer) -> Finding:
    date = datetime.now(UTC).isoformat(timespec="seconds")
    finding = Finding(release.name, release.repo_id, _question(release), date)
    if isinstance(answer, hub.Absent):
        return replace(finding, gone=str(answer))
    if isinstance(answer, PlatformError):
        return replace(finding, problem=str(answer))
    saes = release.saes.values()
    return replace(finding, missing=[[sae.sae_id, place] for sae in saes for place in lacking(sae, answer.files)])


def _question(release: Release) -> str:
    """A digest of what is looked for, which changes with the release file."""
    places = [(sae.sae_id, sae.path) for sae in release.saes.values()]
    return hashlib.sha256(repr((release.repo_id, release.revision, release.format, places)).encode()).hexdigest()[:16]


def _remembered(store: Path) -> dict[str, Finding]:
    """The findings that are kept, or none where the file is not there or of another kind."""
    try:
        content = json.loads(store.read_text(encoding="utf-8"))
        return {name: Finding(**finding) for name, finding in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
